"""Files of torch.save without PyTorch: tensors and plain containers, nothing else.

A pickle is a program. This interpreter knows the instructions that make containers,
numbers and strings, and calls a closed list of functions, all of them below: nothing of
a file is ever imported or run. Both of PyTorch's formats are read: the zip archive, and
the chain of pickles from before 1.6. Arrays are views of the file.
"""

import mmap
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError

_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(tf.bfloat16.as_numpy_dtype),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# A ReActNet-A with its optimizer takes some ten thousand.
_MOST_INSTRUCTIONS = 5_000_000
_DEEPEST = 100
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ZIP_HEADER = struct.Struct("<4s22xHH")


class ForeignObject(UserError):
    """What else a pickle asks for; the message is its name."""


@dataclass
class _Storage:
    """A piece of the file that tensors are views of; the old format fills it later."""

    dtype: np.dtype
    numel: int
    data: np.ndarray | None = None


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        data, size = self.storage.data, self.storage.dtype.itemsize
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        last = self.offset + sum(
            (n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)
        )
        numbers = (self.offset, *self.shape, *self.strides)
        # Elements must not repeat: a tiny file could make an array of any size.
        fits = int(np.prod(self.shape, dtype=object)) <= len(data)
        if min(numbers) < 0 or last >= len(data) or not fits:
            raise UserError("a tensor that its storage does not hold")
        return np.lib.stride_tricks.as_strided(
            data[self.offset :],
            self.shape,
            [stride * size for stride in self.strides],
            writeable=False,
        )


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    known = isinstance(storage, _Storage) and len(shape) == len(strides) <= 8
    if not known or not all(type(n) is int for n in numbers):
        raise UserError("a tensor that is none")
    return _Tensor(storage, offset, shape, strides)


# The only callables, and what they make.
_FUNCTIONS: dict[str, Callable] = {
    "collections.OrderedDict": lambda pairs=(): OrderedDict(pairs),
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.device": lambda *names: ":".join(map(str, names)),
}
# Names that are kept as constants.
_NAMES = {
    f"{module}.{name}": dtype
    for name, dtype in _DTYPES.items()
    for module in ("torch", "torch.cuda")
}
_NAMES |= {
    f"torch.{name}": f"torch.{name}"
    for name in ("float16", "float32", "float64", "bfloat16", "int64", "int32", "bool")
}


class _Mark:
    """Where the items of a container begin on the stack."""


class _Interpreter:
    """Runs one pickle."""

    def __init__(self, persistent_load: Callable[[Any], Any]):
        self._load = persistent_load
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._open = 0

    def run(self, file: BinaryIO) -> Any:
        """Read one pickle from where the file is, up to its end."""
        for count, (code, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MOST_INSTRUCTIONS:
                raise UserError("a pickle of too many instructions")
            if code.name == "STOP":
                return self._pop()
            step = getattr(self, f"_{code.name.lower()}", None)
            if step is not None:
                step(argument)
            elif code.name in _PUSHED:
                self._stack.append(argument)
            elif code.name in _CONSTANTS:
                # A new container each time.
                self._stack.append(_CONSTANTS[code.name]())
            elif code.name not in _IGNORED:
                raise ForeignObject(f"the instruction {code.name}")
        raise UserError("a pickle without an end")

    def _pop(self) -> Any:
        item = self._stack.pop()
        if isinstance(item, _Mark):
            raise UserError("a pickle that ends a container twice")
        return item

    def _pop_to_mark(self) -> list[Any]:
        if not self._open:
            raise UserError("a pickle that ends a container twice")
        start = len(self._stack) - 1
        while not isinstance(self._stack[start], _Mark):
            start -= 1
        items = self._stack[start + 1 :]
        del self._stack[start:]
        self._open -= 1
        return items

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise UserError("a pickle that fills what is no container")
        return self._stack[-1]

    def _mark(self, _) -> None:
        self._open += 1
        if self._open > _DEEPEST:
            raise UserError("containers nested too deeply")
        self._stack.append(_Mark())

    def _tuple(self, _) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _tuple1(self, _) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _tuple2(self, _) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self, _) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _list(self, _) -> None:
        self._stack.append(self._pop_to_mark())

    def _dict(self, _) -> None:
        items = self._pop_to_mark()
        self._stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _append(self, _) -> None:
        item = self._pop()
        self._top(list).append(item)

    def _appends(self, _) -> None:
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def _setitem(self, _) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[key] = value

    def _setitems(self, _) -> None:
        items = self._pop_to_mark()
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

    def _additems(self, _) -> None:
        items = self._pop_to_mark()
        self._top(set).update(items)

    def _binput(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    _put = _long_binput = _binput

    def _memoize(self, _) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _binget(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _get = _long_binget = _binget

    def _global(self, name: str) -> None:
        self._push_name(name.replace(" ", "."))

    def _stack_global(self, _) -> None:
        name, module = self._pop(), self._pop()
        self._push_name(f"{module}.{name}")

    def _push_name(self, name: str) -> None:
        if name in _NAMES:
            self._stack.append(_NAMES[name])
        elif name in _FUNCTIONS:
            self._stack.append(_FUNCTIONS[name])
        else:
            raise ForeignObject(name)

    def _reduce(self, _) -> None:
        arguments, function = self._pop(), self._pop()
        if function not in _FUNCTIONS.values() or not isinstance(arguments, tuple):
            raise ForeignObject("the call of something else")
        self._stack.append(function(*arguments))

    _newobj = _reduce

    def _build(self, _) -> None:
        """Attributes, such as a state dict's `_metadata`: left out."""
        self._pop()
        self._top(OrderedDict)

    def _binpersid(self, _) -> None:
        self._stack.append(self._load(self._pop()))

    def _dup(self, _) -> None:
        self._stack.append(self._stack[-1])


# Opcodes that push their argument unchanged.
_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_IGNORED = {"PROTO", "FRAME"}


def load(path: Path, max_bytes: int) -> Any:
    """Read what torch.save has written.

    Args:
        path: The file.
        max_bytes: Refuse larger ones.

    Returns:
        Containers, numbers and strings, and arrays in the place of tensors: read-only
        views of the file.

    Raises:
        UserError: If it holds anything else (`ForeignObject`), or is damaged; the
            message says what it holds, as a noun.
        ValueError: If it is damaged, as are the next two.
        LookupError: Likewise.
        zipfile.BadZipFile: Likewise.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size > max_bytes:
            raise UserError(f"{size:,} bytes, where {max_bytes:,} are the most")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if content[:2] == b"PK":
        value = _load_archive(path, content)
    else:
        value = _load_legacy(content)
    return _with_arrays(value)


def _load_archive(path: Path, content: mmap.mmap) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if wrong := _damaged_entry(archive):
            raise UserError(f"a wrong checksum of {wrong!r}")
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError("an archive that torch.save has not written")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and _content(content, order).tobytes() != b"little":
        raise UserError("numbers in big-endian order")
    storages: dict[str, _Storage] = {}

    def persistent_load(identity: Any) -> _Storage:
        kind, dtype, key, _, numel = identity
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ForeignObject("a storage of another kind")
        if key not in storages:
            data = _content(content, entries[f"{folder}data/{key}"])
            if numel * dtype.itemsize > len(data):
                raise UserError("a storage that is cut off")
            data = data[: numel * dtype.itemsize].view(dtype)
            storages[key] = _Storage(dtype, numel, data)
        return storages[key]

    data = BytesIO(_content(content, entries[pickles[0]]).tobytes())
    return _Interpreter(persistent_load).run(data)


def _damaged_entry(archive: zipfile.ZipFile) -> str | None:
    """The first entry that is compressed (a bomb may be) or has a wrong checksum."""
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            return entry.filename
    return archive.testzip()


def _content(content: mmap.mmap, entry: zipfile.ZipInfo) -> np.ndarray:
    header = content[entry.header_offset : entry.header_offset + _ZIP_HEADER.size]
    _, name, extra = _ZIP_HEADER.unpack(header)
    start = entry.header_offset + _ZIP_HEADER.size + name + extra
    return np.frombuffer(content, np.uint8, entry.file_size, start)


def _load_legacy(content: mmap.mmap) -> Any:
    storages: dict[str, _Storage] = {}

    def persistent_load(identity: Any) -> _Storage:
        kind, dtype, key, _, numel, view = identity
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise ForeignObject("a storage of another kind")
        if type(numel) is not int or numel < 0:
            raise UserError("a storage of no size")
        return storages.setdefault(key, _Storage(dtype, numel))

    def nothing(_):
        raise ForeignObject("a storage of another kind")

    content.seek(0)
    first, second, _ = (_Interpreter(nothing).run(content) for _ in range(3))
    if first != _LEGACY_MAGIC or second != _LEGACY_PROTOCOL:
        raise UserError("a pickle that torch.save has not written")
    value = _Interpreter(persistent_load).run(content)
    for key in _Interpreter(nothing).run(content):
        storage = storages[key]
        (numel,) = struct.unpack("<q", content.read(8))
        if numel != storage.numel:
            raise UserError("a storage of another size than said")
        start = content.tell()
        storage.data = np.frombuffer(content, storage.dtype, numel, start)
        content.seek(start + storage.data.nbytes)
    if any(storage.data is None for storage in storages.values()):
        raise UserError("a storage that is missing")
    return value


def _with_arrays(value: Any, depth: int = 0) -> Any:
    """The value with arrays in the place of tensors."""
    if depth > _DEEPEST:
        raise UserError("containers nested too deeply")
    if isinstance(value, _Tensor):
        return value.array()
    if isinstance(value, dict):
        return {k: _with_arrays(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_arrays(v, depth + 1) for v in value)
    if isinstance(value, _Storage | np.dtype) or callable(value):
        raise ForeignObject("more than tensors and containers")
    return value
