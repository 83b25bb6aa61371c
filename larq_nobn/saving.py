"""Whole models: saved in one move, loaded with the state that Keras leaves behind."""

import os
from pathlib import Path

import tensorflow as tf

from larq_nobn._errors import UserError


def load_model(path: str | os.PathLike, compile: bool = True) -> tf.keras.Model:
    """Load a saved model like `tf.keras.models.load_model`, optimizer state included.

    Keras 2 does not restore the state of any optimizer from a SavedModel, nor from HDF5
    that of an optimizer inside a `LossScaleOptimizer`; this does.

    Args:
        path: A `.keras` file, an HDF5 file or a SavedModel folder.
        compile: Whether to compile the model as it was when it was saved.

    Returns:
        The model.

    Raises:
        UserError: If there is no such file, or it is not a saved model.

    Example:
        >>> model.save("run/model")
        >>> model = larq_nobn.saving.load_model("run/model")
        >>> model.fit(images, labels)  # goes on where it stopped
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            "`path` must be a saved model (.keras, HDF5 or a SavedModel folder). "
            f"Received: {path}, which does not exist. Fix: check the path."
        )
    try:
        model = tf.keras.models.load_model(path, compile=compile)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _unreadable(path, reason) from error
    if not isinstance(model, tf.keras.Model):
        raise _unreadable(path, "it holds no Keras model.")
    optimizer = getattr(model, "optimizer", None)
    if not compile or not isinstance(optimizer, tf.keras.optimizers.Optimizer):
        return model
    optimizer.build(model.trainable_variables)
    if path.is_dir():
        checkpoint = tf.train.Checkpoint(optimizer=optimizer)
        status = checkpoint.read(str(path / "variables" / "variables"))
        if optimizer.iterations > 0:  # Otherwise there may be no state yet.
            status.assert_existing_objects_matched()
        status.expect_partial()
    elif path.suffix != ".keras":
        _restore_from_hdf5(optimizer, path)
    return model


def save_model(model: tf.keras.Model, path: str | os.PathLike) -> None:
    """Save a model like `model.save`, so that the file is either whole or not there.

    Args:
        model: The model.
        path: A `.keras` file.

    Raises:
        UserError: If it is another kind of file.
        OSError: If it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise UserError(
            f"`path` must be a .keras file. Received: {path}. Fix: "
            f"{path.with_suffix('.keras')}"
        )
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.keras")
    try:
        model.save(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _restore_from_hdf5(optimizer: tf.keras.optimizers.Optimizer, path: Path) -> None:
    import h5py

    with h5py.File(path) as file:
        group = file.get("optimizer_weights")
        if group is None:
            return
        # Bytes or strings, depending on h5py's version.
        names = [
            name.decode() if isinstance(name, bytes) else name
            for name in group.attrs["weight_names"]
        ]
        values = [group[name][()] for name in names]
    # The step counter comes first; a model saved before its first step has no more.
    if values and values[0] > 0:
        for variable, value in zip(optimizer.variables, values, strict=True):
            variable.assign(value)


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        "`path` must be a saved model (.keras, HDF5 or a SavedModel folder). "
        f"Received: {path}, which Keras cannot read: {reason} Fix: save it with "
        "model.save(path)."
    )
