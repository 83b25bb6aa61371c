"""What becomes of depthwise, separable and transposed convolutions: float ones."""

from collections.abc import Sequence

import larq as lq
import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn.deploy.convolutions import (
    convolved,
    finished,
    pad_value_of,
    taken_in,
    weight,
)
from larq_nobn.deploy.geometry import Window, pointwise, upright
from larq_nobn.deploy.merging import in_scope
from larq_nobn.deploy.rules import Context, rewrites
from larq_nobn.deploy.signs import quantized_input
from larq_nobn.deploy.values import Value, constant, linear, reshaped

keras = tf.keras.layers
Layer = tf.keras.layers.Layer
_FLOAT = "Larq Compute Engine has no binary {} convolution"


@rewrites(keras.DepthwiseConv2D, lq.layers.QuantDepthwiseConv2D)
def _depthwise(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A float one: there is no binary kernel."""
    value = quantized_input(layer, inputs[0], context, _FLOAT.format("depthwise"))
    window = context.window(layer, value.shape)
    kernel = weight(layer, "depthwise_kernel")
    kernel = kernel[::-1, ::-1] if context.turned else kernel
    return finished(layer, _by_channel(layer, value, kernel, window, context))


@rewrites(keras.SeparableConv2D, lq.layers.QuantSeparableConv2D)
def _separable(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Two float ones: there is no binary kernel."""
    value = quantized_input(layer, inputs[0], context, _FLOAT.format("separable"))
    window = context.window(layer, value.shape)
    kernel = weight(layer, "depthwise_kernel")
    kernel = kernel[::-1, ::-1] if context.turned else kernel
    return finished(layer, _in_two_steps(layer, value, kernel, window, context))


@rewrites(keras.SeparableConv1D, lq.layers.QuantSeparableConv1D)
def _row_separable(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Two float ones, on an image of one row."""
    value = quantized_input(layer, inputs[0], context, _FLOAT.format("separable"))
    window = context.window(layer, value.shape)
    kernel = weight(layer, "depthwise_kernel")[None]
    value = reshaped(value, (1, *value.shape))
    result = _in_two_steps(layer, value, kernel, window, context)
    row = in_scope(layer, context, reshaped(result, result.shape[1:]))
    return finished(layer, row)


@rewrites(keras.DepthwiseConv1D)
def _row_depthwise(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A float one, on an image of one row."""
    window = context.window(layer, inputs[0].shape)
    kernel = weight(layer, "depthwise_kernel")[None]
    value = reshaped(inputs[0], (1, *inputs[0].shape))
    result = _by_channel(layer, value, kernel, window, context)
    row = in_scope(layer, context, reshaped(result, result.shape[1:]))
    return finished(layer, row)


def _by_channel(
    layer: Layer, value: Value, kernel: np.ndarray, window: Window, context: Context
) -> Value:
    """Convolve each channel by itself.

    Args:
        layer: The layer.
        value: Its input.
        kernel: Array of shape `(height, width, channels, multiplier)`.
        window: Its window.
        context: What the rewrites of one network share.
    """
    pad_value = pad_value_of(layer)
    x, scale, offset = taken_in(value, window, pad_value)
    offset = np.reshape(offset, (-1, 1)) * kernel.sum((0, 1))
    kernel = kernel * np.reshape(scale, (-1, 1))
    native = None if pad_value else window.native
    x = x if native else window.pad(x, pad_value)
    strides = (1, *window.strides, 1)
    if window.strides[0] != window.strides[1]:
        # TensorFlow knows equal strides only; a row may as well step sideways.
        strides = (1, *[max(window.strides)] * 2, 1)

    def emit(scale, shift):
        with context.scope(layer):
            scaled = kernel * np.broadcast_to(scale, offset.size).reshape(offset.shape)
            y = tf.nn.depthwise_conv2d(
                x,
                constant(scaled, x),
                strides,
                native or "VALID",
                dilations=window.dilations,
            )
            return y + constant(shift, x) if np.any(shift) else y

    shape = (*window.count, offset.size)
    return linear(emit, shape, offset=offset.reshape(-1))


def _in_two_steps(
    layer: Layer, value: Value, kernel: np.ndarray, window: Window, context: Context
) -> Value:
    by_channel = _by_channel(layer, value, kernel, window, context)
    mixing = weight(layer, "pointwise_kernel")
    mixing = mixing.reshape(1, 1, *mixing.shape[-2:])
    return convolved(layer, by_channel, mixing, pointwise(window.count), context)


@rewrites(keras.Conv2DTranspose, lq.layers.QuantConv2DTranspose)
def _transposed(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A float one, there is no binary kernel; without dilation."""
    if tuple(layer.dilation_rate) != (1, 1):
        raise UserError(
            f"Layer {layer.name!r} must not be dilated, as TFLite's transposed "
            "convolution is not",
            got=f"dilation_rate={tuple(layer.dilation_rate)}",
            fix="dilation_rate=1",
        )
    value = quantized_input(layer, inputs[0], context, _FLOAT.format("transposed"))
    kernel = weight(layer, "kernel")
    x = upright(value.exact(), context.turned)
    shape = tuple(layer.compute_output_shape((1, *value.shape)))[1:]

    def emit(scale, shift):
        with context.scope(layer):
            y = tf.nn.conv2d_transpose(
                x,
                constant(kernel * np.reshape(scale, (-1, 1)), x),
                (x.shape[0] or tf.shape(x)[0], *shape),
                layer.strides,
                layer.padding.upper(),
            )
            y = y + constant(shift, x) if np.any(shift) else y
            return upright(y, context.turned)

    return finished(layer, linear(emit, shape))
