"""keras-tuner, on the Keras that Larq needs, and every private name of it used here.

It takes the package `keras`, and refuses Larq's models where that is Keras 3
(keras-tuner issue 1039). It is therefore imported with `tf_keras` under that name, by
whoever imports it first, as long as `larq_nobn` was imported before.
"""

import importlib
import importlib.metadata
import sys
import types
from importlib.machinery import ModuleSpec, PathFinder

import tensorflow as tf


class _KerasTunerFinder:
    """Finds keras_tuner where it is, and has it imported on Keras 2."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> ModuleSpec | None:
        """Answer for `keras_tuner` only; its modules come with it."""
        if name != "keras_tuner":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _on_keras_2(execute, module)
        return spec


def _on_keras_2(execute, module: types.ModuleType) -> None:
    """Execute a module to which `import keras` means Keras 2."""
    keras = sys.modules.pop("keras", None)
    sys.modules["keras"] = importlib.import_module("tf_keras")
    try:
        execute(module)
    finally:
        del sys.modules["keras"]
        if keras is not None:
            sys.modules["keras"] = keras


def import_keras_tuner() -> types.ModuleType:
    """Return the module `keras_tuner`, on the Keras that Larq needs.

    Raises:
        ImportError: If it is not installed, or was imported on Keras 3 before.
    """
    try:
        keras_tuner = importlib.import_module("keras_tuner")
        callback = importlib.import_module("keras_tuner.src.engine.tuner_utils")
    except ImportError as error:
        raise ImportError(
            "larq_nobn.tuning needs the package keras-tuner. Received: an environment "
            f"without it ({error}). Fix: pip install 'larq_nobn[tune]'."
        ) from error
    if not issubclass(callback.TunerCallback, tf.keras.callbacks.Callback):
        raise ImportError(
            "larq_nobn.tuning needs keras_tuner on Keras 2. Received: keras_tuner, "
            "imported on Keras 3 already. Fix: import larq_nobn before keras_tuner."
        )
    return keras_tuner


if importlib.metadata.version("keras").startswith("3."):
    sys.meta_path.insert(0, _KerasTunerFinder)
