"""Downloads that are complete, checked and bounded, or an error."""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin

from larq_nobn._errors import UserError, first_line
from larq_nobn._files import atomic_file, remove_temporaries, sha256

if TYPE_CHECKING:
    import requests

# Timeout for connecting, and between two pieces of an answer.
TIMEOUT_SECONDS = 20.0
# Minimum speed: a very slow server is as bad as one that hangs.
SLOWEST_BYTES_PER_SECOND = 10_000
MOST_REDIRECTS = 5
ATTEMPTS = 3
_MISSING = (404, 410)
_BLOCK = 1 << 16
_STALE_SECONDS = 900.0


def is_offline() -> bool:
    """Whether the environment variable `LARQ_NOBN_OFFLINE` forbids the network."""
    return os.environ.get("LARQ_NOBN_OFFLINE", "").lower() not in ("", "0", "false")


def get(url: str, max_bytes: int) -> bytes | None:
    """Read a small file.

    Args:
        url: An http or https URL.
        max_bytes: Read no more than this; one byte more tells that there is more.

    Returns:
        The content, `None` if there is no such file.

    Raises:
        UserError: If the server cannot be reached, hangs or fails.
    """
    content = b""
    try:
        with _blocks(url, max_bytes) as (status, blocks):
            if status in _MISSING:
                return None
            for block in blocks:
                content += block
                if len(content) > max_bytes:
                    break
    except _BrokenConnection as error:
        raise _failure(url, "broke the connection") from error
    return content[: max_bytes + 1]


def download(url: str, path: Path, size: int, digest: str) -> None:
    """Download a file, with a progress bar.

    A connection that breaks is taken up again where it broke, if the server knows how
    to, else from the beginning. The file appears only once its size and SHA-256 are
    right, so processes that download it at once do not disturb each other.

    Args:
        url: An http or https URL.
        path: Where to put the file; the folder is made if missing.
        size: The right size in bytes.
        digest: The right SHA-256.

    Raises:
        UserError: If the server cannot be reached, hangs or fails, or sends something
            else, or the file cannot be written.
    """
    from tqdm import tqdm

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        with (
            atomic_file(path) as file,
            tqdm(
                total=size, unit="B", unit_scale=True, desc=path.name, disable=None
            ) as bar,
        ):
            _receive(url, file, size, bar)
            file.flush()
            _check(url, Path(file.name), size, digest)
    except OSError as error:
        raise UserError(
            "Downloads need a folder to write to",
            got=f"{error.strerror or error} ({path.parent})",
            fix="free some space, or set LARQ_NOBN_CACHE to another folder",
        ) from error


class _BrokenConnection(Exception):
    """The connection broke in the middle of an answer."""


def _receive(url: str, file: BinaryIO, size: int, bar) -> None:
    """Fill the file, in several attempts if need be."""
    for _ in range(ATTEMPTS):
        done = file.tell()
        try:
            with _blocks(url, size, done) as (status, blocks):
                if status in _MISSING:
                    raise _failure(url, "does not have the file (HTTP 404)")
                if done and status != 206:
                    done = file.seek(0)
                    file.truncate()
                    bar.reset()
                for block in blocks:
                    done += file.write(block)
                    bar.update(len(block))
                    if done > size:
                        what = f"sends more than the {size:,} bytes announced"
                        raise _failure(url, what)
        except _BrokenConnection:
            continue
        if done == size:
            return
    raise _failure(url, f"sends {done:,} of {size:,} bytes, in {ATTEMPTS} attempts")


def _check(url: str, path: Path, size: int, digest: str) -> None:
    if path.stat().st_size != size or sha256(path) != digest:
        raise UserError(
            f"{public(url)} must be the file that its card describes (SHA-256 "
            f"{digest})",
            got="another one; nothing was kept",
            fix="try again, and if it stays so, tell whoever runs the server",
        )


class MirrorError(UserError):
    """A server that cannot be reached, hangs or fails."""


class _Deadline:
    """Ends a request, redirects included, by closing its sockets."""

    def __init__(self, seconds: float):
        self.passed = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *exception) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self.passed = True
        for connected in self._sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def watch(self, connected: socket.socket) -> None:
        """Add a socket."""
        self._sockets.append(connected)
        if self.passed:
            self._end()


def _session(deadline: _Deadline) -> "requests.Session":
    """A session whose sockets are watched, and that leaves redirects to its user."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp):
            return None  # requests would read the whole body, whatever its size.

    class Adapter(requests.adapters.HTTPAdapter):
        def get_connection_with_tls_context(self, *args, **kwargs):
            pool = super().get_connection_with_tls_context(*args, **kwargs)
            pool.ConnectionCls = watched(pool.ConnectionCls)
            return pool

    def watched(kind):
        class Connection(kind):
            def connect(self):
                super().connect()
                deadline.watch(self.sock)

        return Connection

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter())
    return session


@contextmanager
def _blocks(
    url: str, size: int, start: int = 0
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The server's answer, from byte `start`: its status, and the content in blocks."""
    import requests
    import urllib3

    # No compression: it would unpack to an unknown size.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    seconds = TIMEOUT_SECONDS + size / SLOWEST_BYTES_PER_SECOND
    with _Deadline(seconds) as deadline, _session(deadline) as session:
        try:
            answer = _follow(session, url, headers)
        except requests.exceptions.Timeout as error:
            what = f"does not answer within {TIMEOUT_SECONDS:g} seconds"
            raise _failure(url, what) from error
        except (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            UnicodeError,
        ) as error:
            what = f"cannot be reached ({first_line(error)})"
            raise _failure(url, "is too slow" if deadline.passed else what) from error

        def blocks() -> Iterator[bytes]:
            try:
                # Unlike requests' own iterator, this does not wait for a whole block.
                while block := answer.raw.read1(_BLOCK, decode_content=False):
                    yield block
            except urllib3.exceptions.ReadTimeoutError as error:
                what = f"stops answering for {TIMEOUT_SECONDS:g} seconds"
                raise _failure(url, what) from error
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                if not deadline.passed:
                    raise _BrokenConnection from error
            if deadline.passed:
                raise _failure(url, "is too slow")

        with answer:
            yield answer.status_code, blocks()


def _follow(
    session: "requests.Session", url: str, headers: dict
) -> "requests.Response":
    """Ask, and ask where redirects say; their bodies are not read."""
    asked = url
    for _ in range(MOST_REDIRECTS + 1):
        answer = session.get(
            asked,
            headers=headers,
            stream=True,
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
        )
        if answer.status_code in (200, 206, *_MISSING):
            return answer
        answer.close()
        target = answer.headers.get("Location")
        if answer.status_code not in (301, 302, 303, 307, 308) or target is None:
            what = f"answers HTTP {answer.status_code} {answer.reason}"
            raise _failure(url, what)
        try:
            asked = urljoin(asked, target)
        except ValueError as error:
            raise _failure(url, f"redirects to {target!r:.200}") from error
    raise _failure(url, f"redirects more than {MOST_REDIRECTS} times")


def public(url: str) -> str:
    """A URL without the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", url)


def _failure(url: str, what: str) -> UserError:
    return MirrorError(
        "A mirror must serve its files",
        got=f"{public(url)} {what}",
        fix="check the address in LARQ_NOBN_ZOO and the network (proxies are taken "
        "from HTTPS_PROXY), or try again later",
    )


def remove_stale(folder: Path) -> None:
    """Remove what killed downloads left behind; one that lives writes now and then."""
    remove_temporaries(folder, time.time() - _STALE_SECONDS)
