"""What `weights=` means: names, bundles, and files of every kind."""

import os
import re
from pathlib import Path

import h5py
import tensorflow as tf

from larq_nobn._errors import UserError, first_line
from larq_nobn._files import DAMAGE
from larq_nobn._model_files import open_weights
from larq_nobn.datasets import DATASETS
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights import hub, registry
from larq_nobn.weights.bundle import load_weights
from larq_nobn.weights.torch.reading import looks_like_torch
from larq_nobn.weights.transfer import assign_checked, check_fit, named_weights


def load(
    model: tf.keras.Model,
    weights: str | os.PathLike | None,
    network: NetworkSpec,
    include_top: bool,
) -> None:
    """Load what `create_model(weights=...)` names into a freshly built model.

    Args:
        model: The model.
        weights: `None`, the name of a dataset, or a path.
        network: What the model is.
        include_top: Whether the model has a classifier.

    Raises:
        UserError: If there are no such weights, or they do not fit the model.
    """
    if weights is None:
        return
    if not isinstance(weights, (str, os.PathLike)) or not str(weights):
        raise UserError(
            "`weights` must be None, the name of a dataset or a path",
            got=f"weights={weights!r}",
            fix="None for random initialization",
        )
    if str(weights).startswith(hub.SCHEME):
        folder, kind = hub.bundle(str(weights))
        registry.load_folder(model, folder, network, include_top, kind)
        return
    path = Path(weights)
    if registry.is_name(weights) and (
        # A data folder beside the program may well have the dataset's name.
        weights.partition(":")[0] in DATASETS or not path.exists()
    ):
        registry.load(model, weights, network, include_top)
    elif registry.is_bundle(path):
        registry.load_folder(model, path, network, include_top)
    elif path.exists():
        load_file(model, path)
    else:
        raise UserError(
            "`weights` must be an existing file or folder, or the name of a dataset",
            got=f"weights={str(weights)!r}, which does not exist from {Path.cwd()}",
            fix="check the path",
        )


# Here Keras stores layers by type and order, without their names.
_BY_TYPE = ("layers/", "_layer_checkpoint_dependencies/")


def load_file(model: tf.keras.Model, path: Path) -> None:
    """Load the weights in a file (`.npz`, HDF5, `.keras`); nothing in it is run.

    Args:
        model: The model to load into.
        path: An existing file.

    Raises:
        UserError: If the file is unreadable or does not fit the model.
    """
    if path.suffix == ".npz":
        load_weights(model, path)
        return
    if path.is_dir():
        raise UserError(
            "`weights` must be a readable HDF5 weights file or .keras file",
            got=f"{path}, a folder (a SavedModel is a program, and is not run)",
            fix="save it again as .keras",
        )
    what, variables = f"the weights in {path}", named_weights(model)
    try:
        with open_weights(path) as (file, config):
            arrays = _named_arrays(file, config, model)
            check_fit(variables, {n: a.shape for n, a in arrays.items()}, what)
            values = {name: array[()] for name, array in arrays.items()}
    except UserError:
        raise
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    assign_checked(variables, values, what)


def _named_arrays(
    file: h5py.File, config: dict | None, model: tf.keras.Model
) -> dict[str, h5py.Dataset]:
    """The weights in a file, not read yet, by the names of `named_weights`."""
    arrays: dict[str, h5py.Dataset] = {}

    def add(path: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[path] = item

    file.get("model_weights", file).visititems(add)
    by_type = {k: array for k, array in arrays.items() if k.startswith(_BY_TYPE)}
    if not by_type:
        return {_layer_and_leaf(path): array for path, array in arrays.items()}
    if config is None:
        layers = [(layer.name, type(layer).__name__) for layer in model.layers]
    else:
        entries = config["config"]["layers"]
        layers = [(e["config"]["name"], e["class_name"]) for e in entries]
    names = _names_by_type(layers)
    leaves: dict[str, list[str]] = {}
    for name in named_weights(model):
        layer, leaf = name.split("/")
        leaves.setdefault(layer, []).append(leaf)
    named = {}
    for path, array in by_type.items():
        _, layer, *inner, number = path.split("/")
        layer = names.get(layer, layer)
        known = leaves.get(layer, ()) if inner == ["vars"] else ()
        is_known = number.isdecimal() and int(number) < len(known)
        leaf = known[int(number)] if is_known else "/".join([*inner, number])
        named[f"{layer}/{leaf}"] = array
    return named


def _names_by_type(layers: list[tuple[str, str]]) -> dict[str, str]:
    """Layers' names by what Keras calls them in a file: `dense_1`, the second Dense."""
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    for name, kind in layers:
        kind = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind.split(">")[-1])
        kind = re.sub("([a-z])([A-Z])", r"\1_\2", kind).lower()
        count = counts[kind] = counts.get(kind, -1) + 1
        names[f"{kind}_{count}" if count else kind] = name
    return names


def _layer_and_leaf(name: str) -> str:
    """`stem/stem/kernel:0` to `stem/kernel`."""
    layer, *_, leaf = name.split("/")
    return f"{layer}/{leaf.split(':')[0]}"


def _unreadable(path: Path, error: Exception) -> UserError:
    if path.is_file():
        with path.open("rb") as file:
            is_torch = path.suffix != ".keras" and looks_like_torch(file.read(8))
        if is_torch:
            return UserError(
                "`weights` must be a HDF5 weights file or Keras model",
                got=f"{path}, which looks like a PyTorch file (A&B BNN's .h5 files "
                "are PyTorch files by another name)",
                fix=f"larq-nobn import {path} --model ... --norm ... --data ...",
            )
    return UserError(
        "`weights` must be a readable HDF5 weights file or .keras file",
        got=f"{path}, {first_line(error)}",
        fix="save it again, or check the download",
    )
