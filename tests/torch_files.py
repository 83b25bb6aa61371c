"""Files as torch.save writes them, without PyTorch; those in data/torch are its own."""

import contextlib
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

_STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}
_STORAGES |= {"f2": "HalfStorage"}


@contextlib.contextmanager
def _modules():
    """Modules of PyTorch's names, for pickle to refer to."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        """A name."""

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils
    for name in _STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


class _Storage:
    def __init__(self, array):
        self.array = array


class _Pickler(pickle.Pickler):
    def __init__(self, file, torch):
        super().__init__(file, protocol=2)
        self.torch, self.storages = torch, []

    def persistent_id(self, thing):
        if not isinstance(thing, _Storage):
            return None
        array, key = thing.array, str(len(self.storages))
        self.storages.append(array)
        kind = getattr(self.torch, _STORAGES[array.dtype.str[1:]])
        return ("storage", kind, key, "cpu", array.size)

    def reducer_override(self, thing):
        if not isinstance(thing, np.ndarray):
            return NotImplemented
        array = np.ascontiguousarray(thing)
        strides = tuple(stride // array.itemsize for stride in array.strides)
        arguments = (_Storage(array), 0, array.shape, strides, False, OrderedDict())
        return self.torch._utils._rebuild_tensor_v2, arguments


def save(content, path: Path) -> Path:
    """Write containers and arrays as torch.save writes containers and tensors."""
    with _modules() as torch:
        data = io.BytesIO()
        pickler = _Pickler(data, torch)
        pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data.getvalue())
        archive.writestr("archive/byteorder", "little")
        for i, array in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{i}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path
