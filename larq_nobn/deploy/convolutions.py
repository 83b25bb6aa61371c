"""What becomes of convolutions: binary ones where they were meant to be, exactly."""

from collections.abc import Callable, Sequence

import larq as lq
import numpy as np
import tensorflow as tf

from larq_nobn import layers
from larq_nobn._errors import UserError
from larq_nobn.deploy.geometry import Window
from larq_nobn.deploy.rewrites import activated
from larq_nobn.deploy.rules import Context, rewrites, scope, scope_name, values_of
from larq_nobn.deploy.values import Value, constant, linear, stream

Layer = tf.keras.layers.Layer


@rewrites(
    tf.keras.layers.Conv2D,
    lq.layers.QuantConv2D,
    layers.QuantConv2D,
    layers.ScaledWSConv2D,
)
def _convolution(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    if layer.groups != 1 or layer.data_format != "channels_last":
        raise UserError(
            f"Layer {layer.name!r} must have one group and channels last",
            got=f"groups={layer.groups}, data_format={layer.data_format!r}",
            fix="groups=1, data_format='channels_last'",
        )
    kernel = _kernel(layer)
    value = inputs[0]
    quantizer = getattr(layer, "input_quantizer", None)
    reason = "" if quantizer is None else _why_not_binary(layer, kernel)
    if reason and not context.allow_float:
        raise UserError(
            f"Layer {layer.name!r} must become a binary convolution",
            got=f"{reason}, so it would stay float",
            fix="train it binary, or allow it to stay float (allow_float=True, "
            "--allow-float)",
        )
    if reason:
        is_plain = is_sign(quantizer) and not isinstance(quantizer, layers.RSign)
        quantized = _sign(value, context) if is_plain else quantizer(value.exact())
        value = stream(quantized)
    kernel = kernel[::-1, ::-1] if context.turned else kernel
    if reason or quantizer is None:
        result = _real(layer, value, kernel, context)
    else:
        result = _binary(layer, value, kernel, context)
    if layer.use_bias:
        result = result.affine(offset=values_of(layer.bias))
    return activated(layer, result)


def _kernel(layer: Layer) -> np.ndarray:
    """Return the kernel that convolves, quantized and with its gain, in float64."""
    with tf.init_scope(), lq.context.quantized_scope(True):
        kernel = tf.convert_to_tensor(layer.kernel)
        if isinstance(layer, layers.ScaledWSConv2D):
            kernel = kernel * layer.gain
        return np.asarray(kernel, np.float64)


def _pad_value(layer: Layer) -> float:
    return float(layer.get_config().get("pad_values", 0.0))


def _why_not_binary(layer: Layer, kernel: np.ndarray) -> str:
    """Say why a layer with quantized inputs is no binary convolution; empty if one."""
    if not is_sign(layer.input_quantizer):
        name = type(layer.input_quantizer).__name__
        name = getattr(layer.input_quantizer, "__name__", name)
        return f"its input quantizer {name} is not a sign"
    if _pad_value(layer) not in (0.0, 1.0, -1.0):
        return f"it pads with {_pad_value(layer)}, which is no sign"
    if np.all(np.abs(kernel) == _magnitude(kernel)):
        return ""
    if getattr(layer, "kernel_quantizer", None) is None:
        return "its kernel is real (kernel_quantizer=None)"
    name = type(layer.kernel_quantizer).__name__
    name = getattr(layer.kernel_quantizer, "__name__", name)
    return f"its kernel, quantized by {name}, is not +-c in each output channel"


def is_sign(quantizer: Callable) -> bool:
    """Whether a quantizer computes a sign (behind a shift, if it is an `RSign`)."""
    if isinstance(quantizer, layers.RSign):
        quantizer = quantizer.quantizer
    with tf.init_scope():
        probe = np.float32([-3, -1, -0.25, -1e-3, 0, 1e-3, 0.25, 1, 3])
        result = np.asarray(quantizer(tf.constant(probe)))
    return np.array_equal(result, np.where(probe < 0, -1, 1))


def _magnitude(kernel: np.ndarray) -> np.ndarray:
    return np.abs(kernel).max(axis=(0, 1, 2))


def _real(layer: Layer, value: Value, kernel: np.ndarray, context: Context) -> Value:
    window = context.window(layer, value.shape)
    pad_value = _pad_value(layer)
    offset: np.ndarray | float = 0.0
    if window.is_padded and pad_value:
        x, scale = value.exact(), 1.0
    elif window.is_padded:
        # A factor keeps padded zeros zero, a shift does not.
        x, scale = value.up_to_scale()
    else:
        value = value.settled()
        x, scale = value.emit(1.0, 0.0), value.scale
        offset = kernel.sum((0, 1)).T @ np.broadcast_to(value.offset, kernel.shape[2:3])
    kernel = kernel * np.reshape(scale, (-1, 1))
    native = None if pad_value else window.native
    x = x if native else window.pad(x, pad_value)

    def emit(scale, shift):
        with scope(layer):
            y = _conv2d(x, kernel * scale, window, native or "VALID")
            return y + constant(shift, x) if np.any(shift) else y

    return linear(emit, (*window.count, kernel.shape[-1]), offset=offset)


def _conv2d(
    x: tf.Tensor, kernel: np.ndarray, window: Window, padding: str
) -> tf.Tensor:
    return tf.nn.conv2d(
        x, constant(kernel, x), window.strides, padding, dilations=window.dilations
    )


def _binary(layer: Layer, value: Value, kernel: np.ndarray, context: Context) -> Value:
    r"""Convolve signs with signs, which is exact, and leave \\(\pm c\\) pending."""
    window, target = context.window(layer, value.shape), context.target
    if isinstance(layer.input_quantizer, layers.RSign):
        value = value.affine(offset=values_of(layer.input_quantizer.bias))
    signs = np.where(kernel < 0, -1.0, 1.0)
    fill = _pad_value(layer)
    has_zeros = window.is_padded and not fill
    # Larq Compute Engine 0.16 pads images smaller than the kernel with wrong values.
    is_native = target.zero_padding and window.native and not window.exceeds_image
    correction = None
    if has_zeros and target.binary and not is_native:
        # One bit has no zero: pad with ones, then subtract their contribution.
        fill, correction = 1.0, _response_to_border(window, signs)
    x, padding = _padded_sign(value, window, fill, context)
    context.binary_layers.append(scope_name(layer))

    def emit(scale, shift):
        with scope(layer):
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
        return _sign(value, context), window.native
    if not fill or (fill == 1 and window.native):
        # The converter expects one-padding behind the sign in place of `same`.
        return window.pad(_sign(value, context), fill), "VALID"
    return _where_not_negative(window.pad(value.of_same_sign(), fill)), "VALID"


def _sign(value: Value, context: Context) -> tf.Tensor:
    if value not in context.signs:
        context.signs[value] = _where_not_negative(value.of_same_sign())
    return context.signs[value]


def _where_not_negative(x: tf.Tensor) -> tf.Tensor:
    return tf.where(x >= 0, tf.ones_like(x), -tf.ones_like(x))


def _response_to_border(window: Window, kernel: np.ndarray) -> np.ndarray:
    """Convolve an image of zeros with a border of ones: `(1, height, width, filters)`.

    It depends on weights and size only, and is made of whole numbers.
    """
    with tf.init_scope():
        zeros = tf.zeros((1, *window.size, kernel.shape[2]), tf.float64)
        x = window.pad(zeros, 1.0)
        return np.asarray(_conv2d(x, kernel, window, "VALID"))
