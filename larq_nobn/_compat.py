"""Everything that depends on the installed TensorFlow version, in one place.

Larq is written for Keras 2. From TensorFlow 2.16 on, `tf.keras` is Keras 3 unless
`TF_USE_LEGACY_KERAS=1` is set and `tf_keras` is installed, so the variable is set here,
before anything touches `tf.keras` (TensorFlow resolves the name lazily).

keras-tuner, however, takes the package `keras`, and refuses Larq's models where that is
Keras 3 (keras-tuner issue 1039). It is therefore imported with `tf_keras` under that
name, by whoever imports it first, as long as `larq_nobn` was imported before.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import types
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

if Path(sys.argv[0]).name == "larq-nobn":
    # Users of the command want its output, not TensorFlow's start-up log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if importlib.metadata.version("keras").startswith("3."):
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf

TF_VERSION = tuple(int(part) for part in tf.__version__.split(".")[:2])
SUPPORTED_TF = ((2, 15), (2, 19))


def check_environment() -> None:
    """Check that `tf.keras` is the Keras 2 that Larq needs.

    Raises:
        ImportError: If `tf.keras` is Keras 3, or `tensorflow.keras` by being imported
            first, or `tf_keras` is missing.
    """
    try:
        version = getattr(tf.keras, "__version__", "2.15")
    except ImportError as error:
        # TensorFlow 2.15 brings Keras 2, and wants tf_keras only if it is told to.
        unset = "unset TF_USE_LEGACY_KERAS, or " if TF_VERSION < (2, 16) else ""
        raise ImportError(
            f"TensorFlow {tf.__version__} needs the package tf_keras for Larq"
            f"{' where TF_USE_LEGACY_KERAS is set' if unset else ''}, which is not "
            f"installed. Fix: {unset}pip install 'tf_keras~={TF_VERSION[0]}."
            f"{TF_VERSION[1]}.0'."
        ) from error
    spec = importlib.util.find_spec("tensorflow.keras")
    if spec and "_tf_keras" in str(spec.origin):
        # It was decided when TensorFlow was imported.
        raise ImportError(
            "Larq needs Keras 2, but TensorFlow was imported on Keras 3 before "
            "larq_nobn. Fix: import larq_nobn before tensorflow and keras_tuner, or "
            "set the environment variable TF_USE_LEGACY_KERAS=1."
        )
    if version.startswith("3."):
        raise ImportError(
            "Larq needs Keras 2, but tf.keras is Keras "
            f"{version}. Fix: set the environment variable TF_USE_LEGACY_KERAS=1 "
            "(or import larq_nobn before tf.keras is first used) and install tf_keras."
        )


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


check_environment()
if importlib.metadata.version("keras").startswith("3."):
    sys.meta_path.insert(0, _KerasTunerFinder)
