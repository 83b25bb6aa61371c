"""A web server on loopback that can misbehave."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Mirror:
    """Serves a folder, and counts requests.

    `misbehave` maps the end of a path to a function that answers instead; it gets the
    handler and the file's content.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.requests: list[str] = []
        self.ranges: list[str | None] = []
        self.misbehave: dict[str, Callable] = {}
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                mirror._answer(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # Do not wait at the end for answers that hang.
        self._server.block_on_close = False
        # A client that hangs up is part of these tests.
        self._server.handle_error = lambda *args: None
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Mirror":
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        # A proxy is asked for whole URLs.
        path = handler.path.removeprefix("http://zoo.invalid")
        self.requests.append(path)
        self.ranges.append(handler.headers.get("Range"))
        file = self.folder / path.lstrip("/")
        content = file.read_bytes() if file.is_file() else None
        for end, answer in self.misbehave.items():
            if path.endswith(end):
                answer(handler, content)
                return
        if content is None:
            send(handler, b"no such file", status=404)
        else:
            send(handler, content)


def send(handler, content: bytes, status: int = 200, length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header(
        "Content-Length", str(len(content) if length is None else length)
    )
    handler.end_headers()
    handler.wfile.write(content)


def cut(handler, content: bytes) -> None:
    """Promise everything, send half of it, and hang up."""
    send(handler, content[: len(content) // 2], length=len(content))


def cut_once_then_resume() -> Callable:
    """Hang up in the middle once, and serve the rest when asked for it."""
    asked = []

    def answer(handler, content: bytes) -> None:
        asked.append(handler.headers.get("Range"))
        if len(asked) == 1:
            cut(handler, content)
        else:
            start = int(asked[-1].removeprefix("bytes=").removesuffix("-"))
            send(handler, content[start:], status=206)

    return answer


def cut_once() -> Callable:
    """Hang up in the middle once; knows nothing of ranges."""
    asked = []

    def answer(handler, content: bytes) -> None:
        asked.append(1)
        (cut if len(asked) == 1 else send)(handler, content)

    return answer


def hang(handler, content: bytes) -> None:
    time.sleep(60)


def hang_in_the_middle(handler, content: bytes) -> None:
    send(handler, content[: len(content) // 2], length=len(content))
    handler.wfile.flush()
    time.sleep(60)


def drip(handler, content: bytes) -> None:
    """A byte now and then, so that no single wait is long."""
    send(handler, b"", length=len(content))
    for _ in range(600):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


def half_then_hang() -> tuple[Callable, threading.Event]:
    """Send half of it, set the event, and hang."""
    sent = threading.Event()

    def answer(handler, content: bytes) -> None:
        send(handler, content[: len(content) // 2], length=len(content))
        handler.wfile.flush()
        sent.set()
        time.sleep(60)

    return answer, sent


def together(number: int) -> Callable:
    """Send half, wait until so many have got theirs, and send the rest."""
    barrier = threading.Barrier(number)

    def answer(handler, content: bytes) -> None:
        half = len(content) // 2
        send(handler, content[:half], length=len(content))
        handler.wfile.flush()
        barrier.wait(60)
        handler.wfile.write(content[half:])

    return answer


def drip_headers(handler, content: bytes) -> None:
    """A byte of a header now and then."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(600):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


def endless_continue(handler, content: bytes) -> None:
    """Nothing but "go on"."""
    for _ in range(600):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
        handler.wfile.flush()
        time.sleep(0.1)


def _redirect(handler, target: str, length: int) -> None:
    handler.send_response(302)
    handler.send_header("Location", target)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


def redirect_with_a_dripping_body(handler, content: bytes) -> None:
    """The file itself comes at once; nobody needs the body in front of it."""
    _redirect(handler, "/b.npz", 1000)
    for _ in range(600):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


def redirect_with_an_endless_body(handler, content: bytes) -> None:
    _redirect(handler, "/b.npz", 1 << 40)
    for _ in range(100_000):
        handler.wfile.write(b"x" * 65536)


def redirect_to_nowhere(handler, content: bytes) -> None:
    _redirect(handler, "http://[", 0)


def redirect_to_a_broken_port(handler, content: bytes) -> None:
    _redirect(handler, "http://127.0.0.1:99999999/", 0)


def redirect_in_a_loop(handler, content: bytes) -> None:
    _redirect(handler, handler.path, 0)


def redirect_to_a_file(handler, content: bytes) -> None:
    _redirect(handler, "file:///etc/hostname", 0)


def html(handler, content: bytes) -> None:
    send(handler, b"<!DOCTYPE html><title>Please log in</title>")


def server_error(handler, content: bytes) -> None:
    send(handler, b"", status=503)


def oversized(handler, content: bytes) -> None:
    send(handler, content + b"x" * 100_000)


def bit_flipped(handler, content: bytes) -> None:
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 1])
    send(handler, content[:middle] + flipped + content[middle + 1 :])


def endless(handler, content: bytes) -> None:
    """No length, and no end."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(10_000):
        handler.wfile.write(b"x" * 65536)
