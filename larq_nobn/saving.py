"""Whole models: saved in one move, loaded with the state that Keras leaves behind."""

import contextlib
import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from larq_nobn._errors import UserError, first_line
from larq_nobn._files import DAMAGE, temporary_name
from larq_nobn._larq import has_larq_zoo, import_larq_zoo
from larq_nobn._model_files import code_in_model, is_archive


def load_model(
    path: str | os.PathLike, compile: bool = True, safe_mode: bool = True
) -> tf.keras.Model:
    """Load a saved model like `tf.keras.models.load_model`, optimizer state included.

    Keras 2 does not restore the state of any optimizer from a SavedModel, nor from HDF5
    that of an optimizer inside a `LossScaleOptimizer`; this does. It also reads the
    `.keras` files of TensorFlow 2.16 and newer in older ones, and knows larq-zoo's own
    objects, where that is installed.

    Args:
        path: A `.keras` file, an HDF5 file or a SavedModel folder.
        compile: Whether to compile the model as it was when it was saved.
        safe_mode: Whether to refuse files that can hold code, which Keras would run:
            SavedModels, `Lambda` layers, classes that are not registered.

    Returns:
        The model.

    Raises:
        UserError: If there is no such file, it is not a saved model, or it can hold
            code.

    Example:
        >>> model.save("run/model.keras")
        >>> model = larq_nobn.saving.load_model("run/model.keras")
        >>> model.fit(images, labels)  # goes on where it stopped
    """
    if has_larq_zoo():
        import_larq_zoo()
    path = Path(path)
    if not path.exists():
        raise UserError(
            "`path` must be a saved model (.keras, HDF5 or a SavedModel folder)",
            got=f"{path}, which does not exist",
            fix="check the path",
        )
    try:
        code = "a program" if path.is_dir() else code_in_model(path)
    except DAMAGE as error:
        raise _unreadable(path, first_line(error)) from error
    if safe_mode and code is not None:
        raise UserError(
            "`path` must be a saved model that holds no code",
            got=f"{path}, which holds {code}",
            fix="save it as .keras, of registered layers only; or, if you trust the "
            "file, safe_mode=False, on the command line --unsafe",
        )
    if is_archive(path) and path.suffix != ".keras":
        raise _unreadable(path, "it is a .keras file by another name")
    try:
        with _of_this_keras(path) as file:
            # Keras has no safe mode for older formats, so the check above must suffice.
            how = {} if safe_mode or not is_archive(path) else {"safe_mode": False}
            model = tf.keras.models.load_model(file, compile=compile, **how)
    except DAMAGE as error:
        raise _unreadable(path, first_line(error)) from error
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
    elif not is_archive(path):
        _restore_from_hdf5(optimizer, path)
    return model


@contextlib.contextmanager
def _of_this_keras(path: Path) -> Iterator[Path]:
    """A `.keras` file that says `tf_keras`, as one that says `keras`, if that is Keras.

    Files name the modules of their classes. Keras 2 is `tf_keras` from TensorFlow 2.16
    on; there the names of older files are understood, but not the other way round.
    """
    if importlib.util.find_spec("tf_keras") is not None or not is_archive(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
            for item in old.infolist():
                content = old.read(item)
                if item.filename == "config.json":
                    content = content.replace(b'"tf_keras.', b'"keras.')
                new.writestr(item, content)
        yield copy


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
            "`path` must be a .keras file", got=path, fix=path.with_suffix(".keras")
        )
    temporary = temporary_name(path, ".keras")
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
    # The step counter comes first, and alone in a model saved before its first step.
    if values and values[0] > 0:
        for variable, value in zip(optimizer.variables, values, strict=True):
            variable.assign(value)


def _unreadable(path: Path, reason: str) -> UserError:
    hint = "" if has_larq_zoo() else "; larq-zoo's own objects need it to be installed"
    return UserError(
        "`path` must be a saved model (.keras, HDF5 or a SavedModel folder)",
        got=f"{path}, which Keras cannot read: {reason}",
        fix=f"save it with model.save(path){hint}",
    )
