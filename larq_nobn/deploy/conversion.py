"""A model as a TFLite file for Larq Compute Engine, or for plain TFLite."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from larq_nobn._errors import UserError, one_of
from larq_nobn._lce import import_compute_engine
from larq_nobn._tensorflow import ConverterError
from larq_nobn.deploy.compaction import FLOAT_WEIGHTS, compact
from larq_nobn.deploy.flatbuffer import Flatbuffer
from larq_nobn.deploy.folded_model import FoldedModel, check_float32
from larq_nobn.deploy.targets import Target


def convert(
    model: tf.keras.Model,
    target: str = "arm",
    *,
    float_weights: str = "float32",
    allow_float: bool = False,
) -> bytes:
    """Convert a model to a TFLite file of the same arithmetic.

    Every binary convolution becomes Larq Compute Engine's `LceBconv2d`, those with
    strides and symmetric zero padding included; all that can be folded is folded. A
    binary network that Larq's converter would leave float in part, or change, is an
    error instead. Compare with the model by `larq_nobn.deploy.check`.

    Args:
        model: A functional model of the zoo's layers, from images of a fixed size, in
            float32; built with binary activations and binary weights.
        target: `"arm"` (64-bit Arm, also what runs on x86), `"xcore"`, or `"tflite"`
            for devices without Larq Compute Engine.
        float_weights: How the kernels of float layers (stem, downsampling, classifier)
            are stored: `"float32"` is exact, `"float16"` and `"int8"` are smaller.
            Binary kernels on real activations are stored compactly in any case.
        allow_float: Let layers that should be binary stay float, instead of failing.

    Returns:
        The content of a `.tflite` file.

    Raises:
        UserError: If the model cannot be converted exactly; the message says why.

    Example:
        >>> content = convert(model)
        >>> pathlib.Path("model.tflite").write_bytes(content)
    """
    one_of("float_weights", float_weights, FLOAT_WEIGHTS)
    folded = FoldedModel(model, target, allow_float)
    check_float32(model)
    content = convert_function(folded, folded.image_shape, folded.target)
    if folded.target.binary:
        _check_binary_layers(folded, content)
    return compact(content, float_weights)


def convert_function(
    function: Callable[[tf.Tensor], tf.Tensor],
    image_shape: tuple[int, ...],
    target: Target,
    variables: Sequence[tf.Variable] = (),
) -> bytes:
    """Convert what TensorFlow can trace, for one image at a time, as it is.

    Args:
        function: Maps a batch of images to one output.
        image_shape: `(height, width, channels)`.
        target: What to convert it for.
        variables: The variables that it reads.

    Returns:
        The content of a `.tflite` file.

    Raises:
        UserError: If Larq Compute Engine is needed and missing, or TFLite has no
            operator for something.
    """
    image = tf.TensorSpec((1, *image_shape), tf.float32, name="image")
    module = tf.Module()
    module.variables_read = list(variables)
    module.serve = tf.function(
        lambda image: function(image), input_signature=[image], autograph=False
    )
    with tempfile.TemporaryDirectory() as folder:
        # Both converters are much faster on a SavedModel than on a function.
        tf.saved_model.save(module, folder, signatures=module.serve)
        if target.binary:
            engine = import_compute_engine()
            with _quiet():
                content = engine.convert_saved_model(folder, target=target.name)
        else:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            try:
                with _quiet():
                    content = converter.convert()
            except ConverterError as error:
                raise _no_operator(str(error).splitlines()[0]) from error
    # Larq's converter lets unknown operators through.
    unknown = [op for op in Flatbuffer(content).operators() if not op.is_known]
    if unknown:
        raise _no_operator(", ".join(sorted({op.kind for op in unknown})))
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' log, which is written in C++, off the standard error.

    Their errors come as exceptions.
    """
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (AttributeError, OSError, ValueError):
        # Without a standard error there is nothing to keep quiet.
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _no_operator(received: str) -> UserError:
    return UserError(
        "Every layer must compute with operators that TFLite has",
        got=received,
        fix="use another activation function there",
    )


def _check_binary_layers(folded: FoldedModel, content: bytes) -> None:
    """Check that the converter recognized every binary convolution.

    Raises:
        UserError: If not, and no float layers are allowed.
    """
    found = [op for op in Flatbuffer(content).operators() if op.kind == "LceBconv2d"]
    if len(found) >= len(folded.binary_layers) or folded.allow_float:
        return
    # Only to name them: the graph's last operator has lost its own name.
    names = {name for op in found for name in op.outputs[0].scopes}
    missing = [name for name in folded.binary_layers if name not in names]
    raise UserError(
        f"All {len(folded.binary_layers)} binary convolutions must become LceBconv2d",
        got=f"{', '.join(missing)} left float by Larq's converter for "
        f"target={folded.target.name!r}",
        fix="choose another target, or allow it (allow_float=True, --allow-float)",
    )
