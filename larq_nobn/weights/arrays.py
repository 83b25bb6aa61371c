"""Named arrays in `.npz` files, read so that a hostile file can do no harm.

`numpy.load` would evaluate each header as a Python literal, and inflate whatever the
file claims. Here a file may hold plain numbers only, and not more of them than it is
allowed to; whatever else it holds ends in one kind of error.
"""

import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from larq_nobn._errors import UserError
from larq_nobn._files import DAMAGE, atomic_file

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[^']*)', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:\d+,? ?)*)\), \} *\n"
)
_DTYPES = ("<f2", "<f4", "<f8", "|u1", "|i1", "<i2", "<i4", "<i8", "|b1")


def write_npz(
    path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False
) -> None:
    """Write arrays; equal arrays make equal files, byte by byte.

    Args:
        path: The file.
        arrays: Arrays of numbers by name.
        compress: Whether to deflate: worth it for small arrays, whose headers weigh.

    Raises:
        OSError: If the file cannot be written; nothing is left behind.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", method) as archive:
        for name, array in arrays.items():
            # Fixed date: the current one would make every file different.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = method
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read_npz(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """Read arrays of numbers.

    Args:
        path: The file.
        max_bytes: The most that its arrays may take, headers included.

    Returns:
        Arrays by name, in the file's order.

    Raises:
        UserError: If the file is damaged, too large, or holds anything else.
        OSError: If there is no such file, or it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            return _read(file, max_bytes)
        except DAMAGE as error:
            received = str(error).strip() or type(error).__name__
            if not isinstance(error, UserError):
                received = f"a damaged one ({received})"
            raise UserError(
                f"{path} must be an .npz file of plain arrays",
                got=received,
                fix="download or export it again",
            ) from error


def _read(file: BinaryIO, max_bytes: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        size = sum(entry.file_size for entry in entries)
        if size > max_bytes:
            raise UserError(
                f"one that unpacks to {size:,} bytes, where at most {max_bytes:,} can "
                "be needed."
            )
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or name in arrays:
                raise UserError(f"the entry {entry.filename!r}, unexpected.")
            arrays[name] = _array(name, _content(archive, entry))
    return arrays


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{entry.filename!r} in compression {entry.compress_type}.")
    with archive.open(entry) as member:
        # Read only the declared size: zipfile otherwise inflates before it cuts.
        content = member.read(entry.file_size)
    if len(content) != entry.file_size:
        raise UserError(f"{entry.filename!r}, which is cut off.")
    return content


def _array(name: str, content: bytes) -> np.ndarray:
    if content[:6] != _MAGIC or content[6:8] not in (b"\x01\x00", b"\x02\x00"):
        raise UserError(f"{name!r}, which is no array.")
    start, code = (10, "<H") if content[6] == 1 else (12, "<I")
    (length,) = struct.unpack(code, content[8:start])
    header = _HEADER.fullmatch(content[start : start + length].decode("latin1"))
    if header is None or header["dtype"] not in _DTYPES:
        what = "pickled objects, which are never loaded" if _is_pickle(header) else ""
        raise UserError(f"{name!r}, which is {what or 'no array of plain numbers'}.")
    shape = tuple(int(size) for size in re.findall(r"\d+", header["shape"]))
    data, dtype = content[start + length :], np.dtype(header["dtype"])
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(data):
        raise UserError(f"{name!r} of shape {shape} in {len(data)} bytes.")
    array = np.frombuffer(data, dtype)
    if header["fortran"] == "True":
        return array.reshape(shape[::-1]).transpose()
    return array.reshape(shape)


def _is_pickle(header: re.Match | None) -> bool:
    return header is not None and header["dtype"].startswith("|O")
