"""What is in Keras's files, looked at without running any of it."""

import builtins
import contextlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import tensorflow as tf

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
# Layers that turn a configuration into code or arbitrary TensorFlow calls.
_PROGRAMS = {"Lambda", "__lambda__", "TensorFlowOpLayer", "ClassMethod"}
_PACKAGES = {"keras", "tf_keras", "larq", "larq_nobn", "larq_zoo", "builtins"}
# Keras's own functions for files and settings.
_NOT_FOR_MODELS = {"utils", "saving", "backend", "config"}
# TensorFlow functions that only compute.
_COMPUTING = {"__operators__", "math", "nn", "linalg", "image", "signal", "random"}
_NOT_COMPUTING = {
    "import_graph_def",
    "load_library",
    "load_op_library",
    "numpy_function",
    "print",
    "py_function",
}
# Deflate expands a byte to at most 1032.
_MOST_INFLATION = 1032


def is_archive(path: Path) -> bool:
    """Whether a file is what Keras writes as `.keras`, whatever its name."""
    return path.is_file() and zipfile.is_zipfile(path)


@contextlib.contextmanager
def open_weights(path: Path) -> Iterator[tuple[h5py.File, dict | None]]:
    """Open the HDF5 file that a path is, or that is in a `.keras` file.

    Args:
        path: The file.

    Yields:
        The HDF5 file, which has nothing from outside, and the model's configuration, if
        it is a `.keras` file.

    Raises:
        Exception: One of `DAMAGE`, if it is damaged, or not all of it is in it.
    """
    with contextlib.ExitStack() as stack:
        config, source = None, path
        if is_archive(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            config = json.loads(_content(archive, _CONFIG))
            source = io.BytesIO(_content(archive, _WEIGHTS))
        file = stack.enter_context(h5py.File(source, "r"))
        _check_hdf5(file)
        yield file, config


def code_in_model(path: Path) -> str | None:
    """Look at a file before Keras reads a model from it.

    Args:
        path: The file.

    Returns:
        What in it can run code, if anything does.

    Raises:
        Exception: One of `DAMAGE`, if it is damaged, or not all of it is in it.
    """
    # A file can be both; Keras decides by its name.
    configs = []
    if is_archive(path):
        with open_weights(path) as (_, config):
            configs.append(config)
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            _check_hdf5(file)
            names = [n for n in ("model_config", "training_config") if n in file.attrs]
            configs += [json.loads(file.attrs[name]) for name in names]
    return next(filter(None, map(_code_in, configs)), None)


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    entry = archive.getinfo(name)
    # Stored uncompressed, as Keras does: otherwise it could unpack to any size.
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(entry)


def _check_hdf5(file: h5py.File) -> None:
    """Check that all of a file is in the file, and numbers."""
    links: list[tuple[bytes, int]] = []
    # h5py swallows exceptions raised in this callback.
    file.id.links.visit(lambda name, link: links.append((name, link.type)), info=True)
    for name, kind in links:
        if kind != h5py.h5l.TYPE_HARD:
            raise ValueError(f"which links to something else at {name!r:.100}")
        item = file[name]
        if isinstance(item, h5py.Dataset):
            _check_dataset(item)


def _check_dataset(item: h5py.Dataset) -> None:
    if item.external or item.is_virtual:
        raise ValueError(f"which stores {item.name!r:.100} in other files")
    if item.dtype.kind not in "fiub" or item.shape is None:
        raise ValueError(f"whose {item.name!r:.100} is no array of numbers")
    stored = item.id.get_storage_size()
    chunks = zip(item.chunks or item.shape, item.shape, strict=True)
    if item.nbytes > _MOST_INFLATION * stored or any(a > max(b, 1) for a, b in chunks):
        raise ValueError(
            f"whose {item.name!r:.100} makes {item.nbytes:,} bytes of {stored:,}"
        )


def _code_in(config: Any) -> str | None:
    """What of a model's configuration is code, if anything."""
    todo = [config]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo += part
        if not isinstance(part, dict):
            continue
        todo += part.values()
        names = {part.get("class_name"), part.get("registered_name")}
        names = {re.split("[>.]", name)[-1] for name in names if isinstance(name, str)}
        if names & _PROGRAMS or part.get("function_type") == "lambda":
            return f"a {min(names & _PROGRAMS, default='Lambda')} layer"
        if names & {"TFOpLambda", "SlicingOpLambda"}:
            inner = part.get("config")
            function = str(inner.get("function") if isinstance(inner, dict) else inner)
            first, dot, _ = function.partition(".")
            if first not in _COMPUTING if dot else first in _NOT_COMPUTING:
                return f"a call of {function}"
        if "class_name" in part and not _is_known(part):
            name = part["class_name"]
            name = part.get("config") if name == "function" else name
            return f"{name} of {part['module']}"
    return None


def _is_known(part: dict[str, Any]) -> bool:
    """Whether a class or function is registered, or of a package of layers.

    Keras would import any module and take anything that is in it.
    """
    module, name = part.get("module"), part["class_name"]
    if module is None:
        return True  # Looked up among Keras's own and registered names only.
    if name == "function":
        name = part.get("config")
    registered = part.get("registered_name") if name == part["class_name"] else name
    for known in (registered, name):
        if isinstance(known, str) and tf.keras.utils.get_registered_object(known):
            return True
    rooms = str(module).split(".")
    return (
        rooms[0] in _PACKAGES
        and not _NOT_FOR_MODELS & set(rooms)
        and not (rooms[0] == "builtins" and hasattr(builtins, str(name)))
    )
