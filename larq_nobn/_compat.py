"""Everything that depends on the installed TensorFlow version, in one place.

Larq is written for Keras 2. From TensorFlow 2.16 on, `tf.keras` is Keras 3 unless
`TF_USE_LEGACY_KERAS=1` is set and `tf_keras` is installed, so the variable is set here,
before anything touches `tf.keras` (TensorFlow resolves the name lazily).
"""

import importlib.metadata
import os
import sys
from pathlib import Path

if Path(sys.argv[0]).name == "larq-nobn":
    # Users of the command want its output, not TensorFlow's start-up log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if importlib.metadata.version("keras").startswith("3."):
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf

TF_VERSION = tuple(int(part) for part in tf.__version__.split(".")[:2])
SUPPORTED_TF = ((2, 15), (2, 18))


def check_environment() -> None:
    """Check that `tf.keras` is the Keras 2 that Larq needs.

    Raises:
        ImportError: If `tf.keras` is Keras 3 or `tf_keras` is missing.
    """
    try:
        version = getattr(tf.keras, "__version__", "2.15")
    except ImportError as error:
        raise ImportError(
            f"TensorFlow {tf.__version__} needs the package tf_keras for Larq, which "
            f"is not installed. Fix: pip install 'tf_keras~={TF_VERSION[0]}."
            f"{TF_VERSION[1]}.0'."
        ) from error
    if version.startswith("3."):
        raise ImportError(
            "Larq needs Keras 2, but tf.keras is Keras "
            f"{version}. Fix: set the environment variable TF_USE_LEGACY_KERAS=1 "
            "(or import larq_nobn before tf.keras is first used) and install tf_keras."
        )


check_environment()
