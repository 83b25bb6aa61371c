"""What `weights=` means: names, bundles, and files of every kind."""

import os
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn.datasets import DATASETS
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights import registry
from larq_nobn.weights.bundle import load_weights
from larq_nobn.weights.torch.reading import looks_like_torch
from larq_nobn.weights.transfer import assign_checked, named_weights, transfer_weights


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
    path = Path(weights)
    if registry.is_name(weights) and (
        # A folder of data next to the program often has the dataset's name.
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


# Where `.weights.h5` files keep layers: by type and order, without their names.
_BY_TYPE = ("layers/", "_layer_checkpoint_dependencies/")


def load_file(model: tf.keras.Model, path: Path) -> None:
    """Load a weights file (HDF5, `.npz`) or a saved model (`.keras`, HDF5, SavedModel).

    Args:
        model: The model to load into.
        path: An existing file or folder.

    Raises:
        UserError: If the file is unreadable or does not fit the model.
    """
    if path.suffix == ".npz":
        load_weights(model, path)
        return
    what = f"the weights in {path}"
    if path.suffix == ".keras" or path.is_dir():
        try:
            source = tf.keras.models.load_model(path, compile=False)
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise _unreadable(path, error) from error
        if not isinstance(source, tf.keras.Model):
            raise _unreadable(path, ValueError("a SavedModel that is no Keras model"))
        transfer_weights(source, model, what)
        return
    values = _read_hdf5(path)
    stored = [name for name in values if name.startswith(_BY_TYPE)]
    if stored:
        # Keras reads these, into a copy, since it may stop halfway through.
        probe = tf.keras.models.clone_model(model)
        _load_by_type(probe, path, len(stored), what)
        transfer_weights(probe, model, what)
        return
    # Not by Keras: from a whole model it would run the code of Lambda layers.
    values = {_layer_and_leaf(name): value for name, value in values.items()}
    assign_checked(named_weights(model), values, what)


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The model's weights in an HDF5 file by their paths there."""
    values = {}

    def add(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            values[name] = item[()]

    try:
        with h5py.File(path) as file:
            file.get("model_weights", file).visititems(add)
    except OSError as error:
        raise _unreadable(path, error) from error
    return values


def _layer_and_leaf(name: str) -> str:
    """`stem/stem/kernel:0` to `stem/kernel`."""
    layer, *_, leaf = name.split("/")
    return f"{layer}/{leaf.split(':')[0]}"


def _load_by_type(model: tf.keras.Model, path: Path, stored: int, what: str) -> None:
    """Keras's `load_weights`, but strict: it ignores what there is no layer for."""

    def misfit(received: str) -> UserError:
        return UserError(
            f"{what[0].upper()}{what[1:]} do not fit the model {model.name}",
            got=received,
            fix="build the model with the arguments that the weights were saved with "
            "(name, norm, stem, width, num_classes)",
        )

    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise misfit(_first_line(error)) from error
    if stored != len(model.weights):
        raise misfit(f"{stored} arrays, expected {len(model.weights)}.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
        "`weights` must be a readable HDF5 weights file or Keras model",
        got=f"{path}, {_first_line(error)}",
        fix="save it again, or check the download",
    )
