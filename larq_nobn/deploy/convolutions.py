"""What becomes of convolutions: binary ones where they were meant to be, exactly."""

from collections.abc import Callable, Sequence

import larq as lq
import numpy as np
import tensorflow as tf

from larq_nobn import layers
from larq_nobn._errors import UserError
from larq_nobn.deploy.geometry import Window, pointwise
from larq_nobn.deploy.merging import in_scope
from larq_nobn.deploy.rewrites import activated
from larq_nobn.deploy.rules import Context, rewrites, values_of
from larq_nobn.deploy.signs import (
    before_sign,
    is_sign,
    meant_binary,
    quantized_input,
    sign,
    where_not_negative,
)
from larq_nobn.deploy.values import (
    Numbers,
    Value,
    concatenate,
    constant,
    linear,
    reshaped,
    stream,
)

keras = tf.keras.layers
Layer = tf.keras.layers.Layer


@rewrites(
    keras.Conv2D,
    lq.layers.QuantConv2D,
    layers.QuantConv2D,
    layers.ScaledWSConv2D,
)
def _convolution(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A binary convolution of signs and signs, else a float one; groups one by one."""
    window = context.window(layer, inputs[0].shape)
    kernel = weight(layer, "kernel")
    kernel = kernel[::-1, ::-1] if context.turned else kernel
    result = _maybe_binary(layer, inputs[0], kernel, window, context)
    return finished(layer, result)


@rewrites(keras.Conv1D, lq.layers.QuantConv1D)
def _row_convolution(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """The same on an image of one row."""
    window = context.window(layer, inputs[0].shape)
    row = reshaped(inputs[0], (1, *inputs[0].shape))
    result = _maybe_binary(layer, row, weight(layer, "kernel")[None], window, context)
    return finished(layer, _reshaped_in_scope(layer, context, result, 1))


@rewrites(keras.Dense, lq.layers.QuantDense)
def _dense(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A matrix product; of signs, or of pixels, a 1x1 convolution."""
    value, kernel = inputs[0], weight(layer, "kernel")
    rank = len(value.shape)
    if rank > 3:
        raise UserError(
            f"Layer {layer.name!r} must have inputs of at most 3 axes",
            got=f"input of shape {value.shape}",
            fix="put Reshape in front",
        )
    if rank == 1 and not meant_binary(layer, value):
        return finished(layer, _product(layer, value, kernel, context))
    added = 3 - rank
    image = reshaped(value, (*[1] * added, *value.shape))
    window = pointwise(image.shape[:2])
    result = _maybe_binary(layer, image, kernel[None, None], window, context)
    return finished(layer, _reshaped_in_scope(layer, context, result, added))


def _product(layer: Layer, value: Value, kernel: np.ndarray, context: Context) -> Value:
    value = value.settled()
    x = value.emit(1.0, 0.0)
    offset = np.broadcast_to(value.offset, kernel.shape[:1]) @ kernel
    kernel = kernel * np.reshape(value.scale, (-1, 1))

    def emit(scale, shift):
        with context.scope(layer):
            y = tf.matmul(x, constant(kernel * scale, x))
            return y + constant(shift, x) if np.any(shift) else y

    return linear(emit, kernel.shape[1:], offset=offset)


def _reshaped_in_scope(
    layer: Layer, context: Context, value: Value, removed: int
) -> Value:
    if not removed:
        return value
    return in_scope(layer, context, reshaped(value, value.shape[removed:]))


def finished(layer: Layer, value: Value) -> Value:
    """Add the bias that a layer has, and apply its activation."""
    if layer.use_bias:
        value = value.affine(offset=values_of(layer.bias))
    return activated(layer, value)


def _maybe_binary(
    layer: Layer, value: Value, kernel: np.ndarray, window: Window, context: Context
) -> Value:
    """Convolve, in binary if a layer is meant so, without bias and activation."""
    if not meant_binary(layer, value):
        return convolved(layer, value, kernel, window, context)
    reason = _why_not_binary(layer, kernel)
    if reason and not context.allow_float:
        raise UserError(
            f"Layer {layer.name!r} must become a binary convolution",
            got=f"{reason}, so it would stay float",
            fix="train it binary, or allow it to stay float (allow_float=True, "
            "--allow-float)",
        )
    if reason:
        value = quantized_input(layer, value, context, reason)
        return convolved(layer, value, kernel, window, context)
    return _grouped(_binary, layer, before_sign(layer, value), kernel, window, context)


def convolved(
    layer: Layer, value: Value, kernel: np.ndarray, window: Window, context: Context
) -> Value:
    """Convolve floats, without bias and activation.

    Args:
        layer: The layer.
        value: Its input.
        kernel: Array of shape `(height, width, channels in, channels out)`.
        window: Its window.
        context: What the rewrites of one network share.
    """
    return _grouped(_real, layer, value, kernel, window, context)


def _grouped(
    convolve: Callable,
    layer: Layer,
    value: Value,
    kernel: np.ndarray,
    window: Window,
    context: Context,
) -> Value:
    """Convolve each group of channels by itself: few runtimes know groups."""
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        return convolve(layer, value, kernel, window, context)
    if convolve is _binary:
        value = stream(value.of_same_sign())
    value = value.settled()
    x = value.emit(1.0, 0.0)
    parts = []
    for i, part in enumerate(np.split(kernel, groups, -1)):
        channels = slice(i * kernel.shape[2], (i + 1) * kernel.shape[2])
        scale, offset = (
            n if np.ndim(n) == 0 else n[channels] for n in (value.scale, value.offset)
        )
        group = stream(x[..., channels]).affine(scale, offset)
        parts.append(convolve(layer, group, part, window, context))
    return in_scope(layer, context, concatenate(parts))


def weight(layer: Layer, name: str) -> np.ndarray:
    """Return a kernel as it is at inference, quantized and with its gain, in float64.

    Args:
        layer: The layer.
        name: The attribute that holds the kernel.
    """
    with tf.init_scope(), lq.context.quantized_scope(True):
        kernel = tf.convert_to_tensor(getattr(layer, name))
        if isinstance(layer, layers.ScaledWSConv2D):
            kernel = kernel * layer.gain
        return np.asarray(kernel, np.float64)


def pad_value_of(layer: Layer) -> float:
    """Return what a layer pads with."""
    return float(getattr(layer, "pad_values", 0.0))


def _why_not_binary(layer: Layer, kernel: np.ndarray) -> str:
    """Say why a layer with quantized inputs is no binary convolution; empty if one."""
    quantizer = getattr(layer, "input_quantizer", None)
    if quantizer is not None and not is_sign(quantizer):
        name = getattr(quantizer, "__name__", type(quantizer).__name__)
        return f"its input quantizer {name} is not a sign"
    if pad_value_of(layer) not in (0.0, 1.0, -1.0):
        return f"it pads with {pad_value_of(layer)}, which is no sign"
    if np.all(np.abs(kernel) == _magnitude(kernel)):
        return ""
    if getattr(layer, "kernel_quantizer", None) is None:
        return "its kernel is real (kernel_quantizer=None)"
    name = type(layer.kernel_quantizer).__name__
    name = getattr(layer.kernel_quantizer, "__name__", name)
    return f"its kernel, quantized by {name}, is not +-c in each output channel"


def _magnitude(kernel: np.ndarray) -> np.ndarray:
    return np.abs(kernel).max(axis=(0, 1, 2))


def _real(
    layer: Layer, value: Value, kernel: np.ndarray, window: Window, context: Context
) -> Value:
    pad_value = pad_value_of(layer)
    x, scale, offset = taken_in(value, window, pad_value)
    offset = kernel.sum((0, 1)).T @ np.broadcast_to(offset, kernel.shape[2:3])
    kernel = kernel * np.reshape(scale, (-1, 1))
    native = None if pad_value else window.native
    x = x if native else window.pad(x, pad_value)

    def emit(scale, shift):
        with context.scope(layer):
            y = _conv2d(x, kernel * scale, window, native or "VALID")
            return y + constant(shift, x) if np.any(shift) else y

    return linear(emit, (*window.count, kernel.shape[-1]), offset=offset)


def taken_in(
    value: Value, window: Window, pad_value: float
) -> tuple[tf.Tensor, Numbers, Numbers]:
    """Create what a window slides over; its kernel takes in what it can.

    Returns:
        A tensor, and the scale and offset that are left to the kernel.
    """
    if window.is_padded and pad_value:
        return value.exact(), 1.0, 0.0
    if window.is_padded:
        # A factor keeps padded zeros zero, a shift does not.
        return *value.up_to_scale(), 0.0
    value = value.settled()
    return value.emit(1.0, 0.0), value.scale, value.offset


def _conv2d(
    x: tf.Tensor, kernel: np.ndarray, window: Window, padding: str
) -> tf.Tensor:
    return tf.nn.conv2d(
        x, constant(kernel, x), window.strides, padding, dilations=window.dilations
    )


def _binary(
    layer: Layer, value: Value, kernel: np.ndarray, window: Window, context: Context
) -> Value:
    r"""Convolve signs with signs, which is exact, and leave \\(\pm c\\) pending."""
    target = context.target
    signs = np.where(kernel < 0, -1.0, 1.0)
    fill = pad_value_of(layer)
    has_zeros = window.is_padded and not fill
    # Larq Compute Engine 0.16 pads images smaller than the kernel with wrong values.
    is_native = target.zero_padding and window.native and not window.exceeds_image
    correction = None
    if has_zeros and target.binary and not is_native:
        # One bit has no zero: pad with ones, then subtract their contribution.
        fill, correction = 1.0, _response_to_border(window, signs)
    x, padding = _padded_sign(value, window, fill, context)
    context.binary_layers.append(context.names[id(layer)])

    def emit(scale, shift):
        with context.scope(layer):
            y = _conv2d(x, signs, window, padding)
            if correction is not None:
                # As a difference from a constant: a sum with one is taken for a bias
                # per channel by the converter, whatever its shape.
                return constant(shift - correction * scale, x) - y * constant(-scale, x)
            if target.binary and y.dtype == tf.float32:
                scale = _well_rounded(scale, shift, kernel[..., 0].size)
            return stream(y).emit(scale, shift)

    shape = (*window.count, kernel.shape[-1])
    return linear(emit, shape, scale=_magnitude(kernel), whole=True)


def _well_rounded(
    scale: np.ndarray | float, shift: np.ndarray | float, taps: int
) -> np.ndarray:
    """Choose multipliers next to given ones with which rounding errs least.

    From a count p of unequal bits, Larq Compute Engine computes
    (taps * scale + shift) - p * (2 * scale). The bracket is much larger than the result
    and rounded to float32: an error that all outputs of a channel share, and that
    multipliers which differ in the last bits do not have.
    """
    candidates = np.multiply.outer(1 + np.arange(-4, 5) * 2.0**-24, scale)
    candidates = candidates.astype(np.float32)
    bracket = np.float32(taps) * candidates + np.float32(shift)
    wide = candidates.astype(np.float64)
    error = np.abs(bracket - (taps * wide + np.float32(shift)))
    error += np.abs(wide - scale) * np.sqrt(taps)
    best = np.expand_dims(np.argmin(error, 0), 0)
    return np.take_along_axis(candidates, best, 0)[0]


def _padded_sign(
    value: Value, window: Window, fill: float, context: Context
) -> tuple[tf.Tensor, str]:
    """Return the signs that a convolution sees, and its padding."""
    if window.native == "VALID" or (window.native and not fill):
        return sign(value, context), window.native
    if not fill or (fill == 1 and window.native):
        # The converter expects one-padding behind the sign in place of `same`.
        return window.pad(sign(value, context), fill), "VALID"
    return where_not_negative(window.pad(value.of_same_sign(), fill), context), "VALID"


def _response_to_border(window: Window, kernel: np.ndarray) -> np.ndarray:
    """Convolve an image of zeros with a border of ones: `(1, height, width, filters)`.

    It depends on weights and size only, and is made of whole numbers.
    """
    with tf.init_scope():
        zeros = tf.zeros((1, *window.size, kernel.shape[2]), tf.float64)
        x = window.pad(zeros, 1.0)
        return np.asarray(_conv2d(x, kernel, window, "VALID"))
