"""Files that are whole or not there."""

import contextlib
import hashlib
import json
import os
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from larq_nobn._errors import UserError

# What zipfile, zlib, NumPy, h5py, PyTorch and Keras raise for damaged files. A
# `UserError` is one of these too.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

# Names made by `temporary_name`.
_TEMPORARY = re.compile(r"\..+\.\d+(-\d+)?\.tmp(\.keras)?")


def temporary_name(path: Path, suffix: str = "") -> Path:
    """A name beside a file for what is to become it, of this thread alone."""
    unique = f"{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f".{path.name}.{unique}.tmp{suffix}")


def remove_temporaries(folder: Path, older_than: float = 0.0) -> None:
    """Remove what killed processes left half-written in a folder, and nothing else.

    Args:
        folder: The folder; it need not exist.
        older_than: Leave what changed after this time, in seconds since 1970.
    """
    for path in folder.glob(".*"):
        with contextlib.suppress(FileNotFoundError):
            if _TEMPORARY.fullmatch(path.name) and path.is_file():
                if not older_than or path.stat().st_mtime < older_than:
                    path.unlink()


def out_path(path: str | os.PathLike) -> Path:
    """Where to write to, as a `Path`.

    Raises:
        UserError: If it is empty, which would be the current folder.
    """
    if not str(path):
        raise UserError("`out` must name a file or folder", got="''", fix="name one")
    return Path(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If it is something else.
        OSError: If it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds no JSON object but {content!r:.40}")
    return content


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only once it is complete.

    Args:
        path: The file; its folder must exist.

    Yields:
        The file, for reading and writing bytes.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    temporary = temporary_name(path)
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or not there.

    Args:
        path: The file.
        data: Its content.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
