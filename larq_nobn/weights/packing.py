"""A network's weights at one bit per binary weight.

Only signs and one magnitude per channel of a binary kernel reach the forward pass, so
the latent weights behind them can be replaced by ±t. Behind scaled weight
standardization, which centres and rescales whatever it gets, t is free: it is the root
mean square of the layer's centred latent weights, so that further training takes steps
of the same relative size; the gain makes up for the magnitude, which the replacement
changes. Without standardization t is what gives the magnitude; for `ScaledSign` that is
the magnitude itself (all but for rounding: see `_with_mean`).
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn.layers import QuantConv2D, ScaledWSConv2D
from larq_nobn.quantizers import is_channelwise
from larq_nobn.weights.transfer import named_weights

BITS, MAGNITUDE = ":bits", ":magnitude"


def binary_layers(model: tf.keras.Model) -> list[QuantConv2D]:
    """The layers with a binary kernel."""
    return [
        layer
        for layer in model.layers
        if isinstance(layer, QuantConv2D) and is_channelwise(layer.kernel_quantizer)
    ]


def binary_kernel(layer: QuantConv2D, kernel: np.ndarray | None = None) -> np.ndarray:
    """The kernel that the layer convolves with, without its gain: ±c per channel.

    Args:
        layer: A layer of `binary_layers`.
        kernel: Latent weights to use instead of the layer's.

    Returns:
        Array of the kernel's shape, HWIO.
    """
    kernel = tf.convert_to_tensor(layer.kernel if kernel is None else kernel)
    return layer.kernel_view()(kernel).numpy()


def pack_weights(
    model: tf.keras.Model, classifier_dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Describe a model's weights in as few bytes as give the same forward pass.

    Args:
        model: A network of the zoo.
        classifier_dtype: `"float32"`, or `"float16"` for half of the classifier's size
            and logits that differ in the third or fourth digit.

    Returns:
        Arrays by name: for a binary kernel `layer/kernel:bits` (uint8, 8 weights a
        byte in C order of HWIO, 1 for positive) and `layer/kernel:magnitude` (float32,
        of shape `()` or `(out_channels,)`); every other weight in float32.
    """
    arrays = {n: np.float32(v.numpy()) for n, v in named_weights(model).items()}
    for layer in binary_layers(model):
        arrays.update(_packed_kernel(layer))
        del arrays[f"{layer.name}/kernel"]
    if "classifier/kernel" in arrays:
        name = "classifier/kernel"
        arrays[name] = arrays[name].astype(classifier_dtype)
    return arrays


def unpack_weights(
    model: tf.keras.Model, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Turn packed arrays into values of a model's weights; others pass through.

    Args:
        model: The network that the arrays are for.
        arrays: As made by `pack_weights`.

    Returns:
        Arrays by the names of `named_weights`, not checked against the model.

    Raises:
        UserError: If the bits or magnitudes do not fit a kernel of the model.
    """
    values = dict(arrays)
    shapes = {
        f"{layer.name}/kernel": tuple(layer.kernel.shape)
        for layer in binary_layers(model)
    }
    for name in [name for name in arrays if name.endswith(BITS)]:
        kernel = name.removesuffix(BITS)
        bits, magnitude = values.pop(name), values.pop(kernel + MAGNITUDE, None)
        shape = shapes.get(kernel)
        if shape is None or kernel in arrays or not _fits(bits, magnitude, shape):
            raise UserError(
                "Packed weights must fit the model's binary kernels",
                got=f"{name!r} of shape {bits.shape}"
                + ("" if shape else ", which the model does not have in binary"),
                fix="build the model with the arguments that they were packed with",
            )
        signs = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)
        if magnitude.ndim:
            values[kernel] = _with_mean(signs, magnitude)
        else:
            values[kernel] = np.where(signs, magnitude, -magnitude)
    return values


def _packed_kernel(layer: QuantConv2D) -> dict[str, np.ndarray]:
    name = f"{layer.name}/kernel"
    kernel = binary_kernel(layer)
    positive, scale = kernel >= 0, _scale(kernel)

    if isinstance(layer, ScaledWSConv2D):
        latent = layer.kernel.numpy()
        centred = latent - latent.mean((0, 1, 2))
        magnitude = np.float32(np.sqrt(np.mean(np.square(centred))) or 1.0)
        new = layer.gain_for(np.where(positive, magnitude, -magnitude))
        others = {f"{layer.name}/gain": np.float32(new)}
    else:
        # For a kernel of ±t most quantizers give the magnitude t.
        new_scale = _scale(binary_kernel(layer, np.where(positive, scale, -scale)))
        ratio = np.divide(scale, new_scale, np.ones_like(scale), where=new_scale > 0)
        ratio = np.where(np.abs(ratio - 1) < 1e-4, 1, ratio)
        magnitude, others = np.float32(scale * ratio), {}
    return {name + BITS: np.packbits(positive), name + MAGNITUDE: magnitude, **others}


def _with_mean(positive: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A kernel of these signs whose absolute values have this mean, per channel.

    Thousands of equal float32 numbers add up to something else than their product, by
    1e-5. So all but the first get so few digits that their sums are exact, in whatever
    order, and the first gets what is missing.
    """
    count = positive[..., 0].size
    digits = 24 - int(np.ceil(np.log2(count)))
    fraction, exponent = np.frexp(mean.astype(np.float64))
    most = np.ldexp(np.floor(np.ldexp(fraction, digits)), exponent - digits)
    magnitudes = np.broadcast_to(most, (count, len(mean))).copy()
    magnitudes[0] += count * (mean - most)
    magnitudes = magnitudes.reshape(positive.shape)
    return np.where(positive, magnitudes, -magnitudes)


def _scale(kernel: np.ndarray) -> np.ndarray:
    """The magnitude of each channel of a binary kernel."""
    return np.abs(kernel).max((0, 1, 2)).astype(np.float64)


def _fits(bits: np.ndarray, magnitude: np.ndarray | None, shape: tuple) -> bool:
    return (
        magnitude is not None
        and bits.dtype == np.uint8
        and bits.shape == (-(-int(np.prod(shape)) // 8),)
        and magnitude.dtype.kind == "f"
        and magnitude.shape in ((), shape[-1:])
    )
