"""A model as a TFLite file for Larq Compute Engine, or for plain TFLite."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from larq_nobn._compiler import stderr_dropped
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
        model: A functional model of layers that the export knows, from inputs of fixed
            sizes, in float32; `can_convert` says beforehand what it does not know.
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
    if float_weights == "float16" and not folded.target.widens:
        raise UserError(
            f"float_weights must be 'float32' or 'int8' for target={target!r}",
            got="float16, which TensorFlow Lite Micro cannot read",
            fix="choose int8, or the target 'arm' for phones and single-board computers",
        )
    content = convert_function(folded.run_listed, folded.input_shapes, folded.target)
    if folded.target.binary:
        _check_binary_layers(folded, content)
    return compact(content, float_weights, folded.target.widens)


def convert_function(
    function: Callable,
    shapes: Sequence[tuple[int, ...]],
    target: Target,
    variables: Sequence[tf.Variable] = (),
) -> bytes:
    """Convert what TensorFlow can trace, for one image at a time, as it is.

    Args:
        function: Maps a batch per input to one output, or a list of them.
        shapes: The inputs' shapes without the batch axis, such as `(height, width,
            channels)`.
        target: What to convert it for.
        variables: The variables that it reads.

    Returns:
        The content of a `.tflite` file.

    Raises:
        UserError: If Larq Compute Engine is needed and missing, or TFLite has no
            operator for something.
    """
    names = [f"image_{i:03d}" for i in range(len(shapes))] if shapes[1:] else ["image"]
    specs = [
        tf.TensorSpec((1, *shape), tf.float32, name=name)
        for shape, name in zip(shapes, names, strict=True)
    ]
    module = tf.Module()
    module.serve = tf.function(
        lambda *images: function(*images), input_signature=specs, autograph=False
    )
    # The rewrites read some through their layers.
    traced = module.serve.get_concrete_function()
    module.variables_read = [*variables, *traced.variables]
    with tempfile.TemporaryDirectory() as folder:
        # Both converters are much faster on a SavedModel than on a function.
        with _infos_dropped():
            tf.saved_model.save(module, folder, signatures=module.serve)
        if target.binary:
            engine = import_compute_engine()
            with stderr_dropped():
                content = engine.convert_saved_model(folder, target=target.name)
        else:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            try:
                with stderr_dropped():
                    content = converter.convert()
            except ConverterError as error:
                raise _no_operator(str(error).splitlines()[0]) from error
    # Larq's converter lets unknown operators through.
    unknown = [op for op in Flatbuffer(content).operators() if not op.is_known]
    if unknown:
        raise _no_operator(", ".join(sorted({op.kind for op in unknown})))
    return _in_order(content)


def _in_order(content: bytes) -> bytes:
    """Put inputs and outputs in their order, which the converters do not keep."""
    file = Flatbuffer(content)
    if len(file.inputs) == len(file.outputs) == 1:
        return content

    def indices(maps):
        # Such as output_2 and output_10.
        maps = sorted(maps, key=lambda tensor: (len(tensor.name), tensor.name))
        return [tensor.tensorIndex for tensor in maps]

    signature = file.model.signatureDefs[0]
    file.graph.inputs = indices(signature.inputs)
    file.graph.outputs = indices(signature.outputs)
    return file.pack()


@contextlib.contextmanager
def _infos_dropped() -> Iterator[None]:
    """Keep TensorFlow from saying where it has saved what is gone a second later."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


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
