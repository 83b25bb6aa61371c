"""Downloads that are complete, checked and bounded, or an error."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from larq_nobn._errors import UserError, first_line
from larq_nobn._files import atomic_file, remove_temporaries, sha256

if TYPE_CHECKING:
    import requests

# To connect, and between two pieces of an answer.
TIMEOUT_SECONDS = 20.0
# A server that drips is as bad as one that hangs.
SLOWEST_BYTES_PER_SECOND = 10_000
MOST_REDIRECTS = 5
ATTEMPTS = 3
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
        with _answer(url) as answer:
            if answer is None:
                return None
            for block in _blocks(answer, url, max_bytes):
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
        # A download that lives writes now and then, or gives up.
        remove_temporaries(path.parent, time.time() - _STALE_SECONDS)
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
            with _answer(url, done) as answer:
                if answer is None:
                    raise _failure(url, "does not have the file (HTTP 404)")
                if done and answer.status_code != 206:
                    done = file.seek(0)
                    file.truncate()
                    bar.reset()
                for block in _blocks(answer, url, size):
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


@contextmanager
def _answer(url: str, start: int = 0) -> Iterator["requests.Response | None"]:
    """The server's answer, from byte `start`; `None` for "not found"."""
    import requests

    # Compressed answers would unpack to unknown sizes.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with requests.Session() as session:
            session.max_redirects = MOST_REDIRECTS
            with session.get(
                url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS
            ) as answer:
                if answer.status_code in (404, 410):
                    yield None
                elif answer.status_code in (200, 206):
                    yield answer
                else:
                    what = f"answers HTTP {answer.status_code} {answer.reason}"
                    raise _failure(url, what)
    except requests.exceptions.TooManyRedirects as error:
        what = f"redirects more than {MOST_REDIRECTS} times"
        raise _failure(url, what) from error
    except requests.exceptions.Timeout as error:
        what = f"does not answer within {TIMEOUT_SECONDS:g} seconds"
        raise _failure(url, what) from error
    except requests.exceptions.RequestException as error:
        raise _failure(url, f"cannot be reached ({first_line(error)})") from error


def _blocks(answer: "requests.Response", url: str, size: int) -> Iterator[bytes]:
    """The content as it comes in."""
    import urllib3

    deadline = time.monotonic() + TIMEOUT_SECONDS + size / SLOWEST_BYTES_PER_SECOND
    try:
        # Unlike requests' own iterator, this does not wait for a whole block.
        while block := answer.raw.read1(_BLOCK, decode_content=False):
            yield block
            if time.monotonic() > deadline:
                raise _failure(url, "is too slow")
    except urllib3.exceptions.ReadTimeoutError as error:
        what = f"stops answering for {TIMEOUT_SECONDS:g} seconds"
        raise _failure(url, what) from error
    except urllib3.exceptions.HTTPError as error:
        raise _BrokenConnection from error


def public(url: str) -> str:
    """A URL without the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", url)


def _failure(url: str, what: str) -> UserError:
    return UserError(
        "A mirror must serve its files",
        got=f"{public(url)} {what}",
        fix="check the address in LARQ_NOBN_ZOO and the network (proxies are taken "
        "from HTTPS_PROXY), or try again later",
    )
