"""A model as a TFLite file for Larq Compute Engine, or for plain TFLite."""

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from larq_nobn._compiler import stderr_dropped
from larq_nobn._errors import UserError, one_of
from larq_nobn._lce import import_compute_engine
from larq_nobn._tensorflow import ConverterError
from larq_nobn.deploy.compaction import FLOAT_WEIGHTS, compact
from larq_nobn.deploy.flatbuffer import Flatbuffer
from larq_nobn.deploy.folded_model import FoldedModel, check_float32
from larq_nobn.deploy.runtime import check_inputs
from larq_nobn.deploy.targets import Target

QUANTIZED = ("int8",)


def convert(
    model: tf.keras.Model,
    target: str = "arm",
    *,
    float_weights: str = "float32",
    allow_float: bool = False,
    quantize: str | None = None,
    representative: np.ndarray | Sequence[np.ndarray] | None = None,
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
        quantize: `"int8"`, for the target `"tflite"`: everything in int8, input and
            outputs too, for devices that compute nothing in float. That is not exact:
            measure what it costs by `larq_nobn.deploy.accuracy`.
        representative: Preprocessed images, of which `quantize` takes the ranges of
            all values, such as some hundreds of the training set; a list of arrays, if
            the model has several inputs.

    Returns:
        The content of a `.tflite` file.

    Raises:
        UserError: If the model cannot be converted exactly; the message says why.

    Example:
        >>> content = convert(model)
        >>> pathlib.Path("model.tflite").write_bytes(content)
    """
    one_of("float_weights", float_weights, FLOAT_WEIGHTS)
    check_quantize(quantize, target, float_weights)
    if (quantize is None) != (representative is None):
        raise UserError(
            "`quantize` and `representative` belong together",
            got=f"quantize={quantize!r} and {'no' if quantize else 'some'} images",
            fix="quantize='int8', representative=images",
        )
    folded = FoldedModel(model, target, allow_float)
    check_float32(model)
    if float_weights == "float16" and not folded.target.widens:
        raise UserError(
            f"float_weights must be 'float32' or 'int8' for target={target!r}",
            got="float16, which TensorFlow Lite Micro cannot read",
            fix="choose int8, or target='arm' for phones and boards with Linux",
        )
    if quantize is not None:
        representative = check_inputs(representative, folded.input_shapes)
    content = convert_function(
        folded.run_listed,
        folded.input_shapes,
        folded.target,
        representative=representative,
    )
    if quantize is not None:
        return content
    if folded.target.binary:
        _check_binary_layers(folded, content)
    return compact(content, float_weights, folded.target.widens)


def convert_function(
    function: Callable,
    shapes: Sequence[tuple[int, ...]],
    target: Target,
    variables: Sequence[tf.Variable] = (),
    representative: Sequence[np.ndarray] | None = None,
) -> bytes:
    """Convert what TensorFlow can trace, for one image at a time, as it is.

    Args:
        function: Maps a batch per input to one output, or a list of them.
        shapes: The inputs' shapes without the batch axis, such as `(height, width,
            channels)`.
        target: What to convert it for.
        variables: The variables that it reads.
        representative: Images, an array per input, to quantize it to int8 by; only for
            plain TFLite.

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
        with _quiet():
            tf.saved_model.save(module, folder, signatures=module.serve)
        if target.binary:
            engine = import_compute_engine()
            with _quiet():
                content = engine.convert_saved_model(folder, target=target.name)
        else:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            if representative is not None:
                _quantize(converter, dict(zip(names, representative, strict=True)))
            try:
                with _quiet():
                    content = converter.convert()
            except (ConverterError, RuntimeError) as error:
                kind = "TFLite" if representative is None else "TFLite in int8"
                raise _no_operator(str(error).splitlines()[0], kind) from error
    # Larq's converter lets unknown operators through.
    unknown = [op for op in Flatbuffer(content).operators() if not op.is_known]
    if unknown:
        raise _no_operator(", ".join(sorted({op.kind for op in unknown})))
    if representative is not None:
        _check_int8(Flatbuffer(content))
    return _in_order(content)


def check_quantize(quantize: str | None, target: str, float_weights: str) -> None:
    """Check that what is to be quantized can be.

    Raises:
        UserError: If not.
    """
    if quantize is None:
        return
    one_of("quantize", quantize, QUANTIZED)
    if target != "tflite":
        raise UserError(
            "Only files for plain TFLite can be quantized",
            got=f"target={target!r}",
            fix="target='tflite' (--target tflite); binary convolutions of the others "
            "have one bit already, and float_weights rounds the rest",
        )
    if float_weights != "float32":
        raise UserError(
            "Quantized files have no float weights",
            got=f"float_weights={float_weights!r}",
            fix="leave it away",
        )


def _quantize(converter, representative: dict[str, np.ndarray]) -> None:
    """Let a converter quantize everything by images, for each input's name."""

    def images() -> Iterator[dict[str, np.ndarray]]:
        count = len(next(iter(representative.values())))
        for i in range(count):
            yield {name: x[i : i + 1] for name, x in representative.items()}

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8


def _check_int8(file: Flatbuffer) -> None:
    """Check that nothing computes in float.

    Raises:
        UserError: If something does.
    """
    left = {
        op.kind
        for op in file.operators()
        if any(x.dtype.startswith("float") for x in (*op.inputs, *op.outputs) if x)
    }
    if left:
        raise _no_operator(f"float {', '.join(sorted(left))}", "TFLite in int8")


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
def _quiet() -> Iterator[None]:
    """Keep what TensorFlow and the converters say on their way off the standard error.

    Their errors come as exceptions.
    """
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # Above where it has saved what is gone a second later.
    try:
        with stderr_dropped(), warnings.catch_warnings():
            # They come from the representative images.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were")
            yield
    finally:
        logger.setLevel(level)


def _no_operator(received: str, runtime: str = "TFLite") -> UserError:
    return UserError(
        f"Every layer must compute with operators that {runtime} has",
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
