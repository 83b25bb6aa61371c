"""What becomes of each layer but convolutions: one short function per class."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from larq_nobn import layers
from larq_nobn._errors import UserError
from larq_nobn.deploy.geometry import turn
from larq_nobn.deploy.rules import Context, rewrites, scope, values_of
from larq_nobn.deploy.values import (
    Value,
    concatenate,
    constant,
    linear,
    stream,
    weighted_sum,
)

keras = tf.keras.layers
Layer = tf.keras.layers.Layer


@rewrites(keras.Dropout)
def _identity(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    return inputs[0]


@rewrites(layers.Scale)
def _scale(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    return inputs[0].affine(layer.factor)


@rewrites(layers.ChannelAffine)
def _channel_affine(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    return inputs[0].affine(values_of(layer.scale), values_of(layer.offset))


@rewrites(layers.LearnableBias)
def _learnable_bias(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    return inputs[0].affine(offset=values_of(layer.bias))


@rewrites(keras.BatchNormalization)
def _batch_norm(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    if list(layer.axis) not in ([-1], [len(inputs[0].shape)]):
        raise UserError(
            f"Layer {layer.name!r} must normalize channels",
            got=f"axis={list(layer.axis)}",
            fix="BatchNormalization(axis=-1)",
        )
    scale = (values_of(layer.moving_variance) + layer.epsilon) ** -0.5
    if layer.scale:
        scale = scale * values_of(layer.gamma)
    offset = -values_of(layer.moving_mean) * scale
    if layer.center:
        offset = offset + values_of(layer.beta)
    return inputs[0].affine(scale, offset)


@rewrites(layers.ScaledAdd)
def _scaled_add(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    return _in_scope(layer, weighted_sum(inputs, [layer.alpha, 1.0]))


@rewrites(keras.Add)
def _add(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    return _in_scope(layer, weighted_sum(inputs, [1.0] * len(inputs)))


@rewrites(keras.Concatenate)
def _concatenate(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    if layer.axis not in (-1, len(inputs[0].shape)):
        raise UserError(
            f"Layer {layer.name!r} must join channels",
            got=f"axis={layer.axis}",
            fix="Concatenate(axis=-1)",
        )
    return _in_scope(layer, concatenate(inputs))


def _in_scope(layer: Layer, value: Value) -> Value:
    def emit(scale, offset):
        with scope(layer):
            return value.emit(scale, offset)

    return replace(value, emit=emit)


@rewrites(layers.RPReLU)
def _rprelu(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    with tf.init_scope():
        slope = values_of(layer.negative_slope)
    value = _prelu(inputs[0].affine(offset=values_of(layer.bias_in)), slope)
    return value.affine(offset=values_of(layer.bias_out))


@rewrites(keras.PReLU)
def _keras_prelu(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    slope = values_of(layer.alpha)
    if slope.size != inputs[0].shape[-1]:
        raise UserError(
            f"Layer {layer.name!r} must have one slope per channel",
            got=f"slopes of shape {slope.shape}",
            fix="PReLU(shared_axes=[1, 2])",
        )
    return _prelu(inputs[0], slope.reshape(-1))


def _prelu(value: Value, slope: np.ndarray) -> Value:
    """PReLU commutes with a positive factor, so that one stays pending."""
    x, scale = value.up_to_scale()
    # In this form, and with alpha of the input's rank less one, TFLite has an operator.
    alpha = constant(-slope.reshape([1] * (x.shape.rank - 2) + [-1]), x)
    return stream(tf.nn.relu(x) + alpha * tf.nn.relu(-x)).affine(scale)


@rewrites(keras.ReLU, keras.LeakyReLU, keras.Activation, keras.Softmax)
def _activation(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    if getattr(layer, "activation", None) is tf.keras.activations.linear:
        return inputs[0]
    return stream(layer.call(inputs[0].exact()))


@rewrites(keras.Flatten)
def _flatten(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    x = inputs[0].exact()
    if context.turned and x.shape.rank == 4:
        x = turn(x)
    return stream(layer.call(x))


@rewrites(keras.GlobalAveragePooling2D)
def _global_average_pool(
    layer: Layer, inputs: Sequence[Value], context: Context
) -> Value:
    return _pooled(
        inputs[0], lambda x: tf.reduce_mean(x, [1, 2], keepdims=layer.keepdims)
    )


@rewrites(keras.AveragePooling2D)
def _average_pool(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    window = context.window(layer, inputs[0].shape)
    if window.is_padded and not window.native:
        raise UserError(
            "Strided layers must pad alike, all symmetric or all 'same'",
            got=f"layer {layer.name!r} averages with padding='same' among symmetric "
            "ones",
            fix="pool with padding='valid'",
        )

    def pool(x):
        x = x if window.native else window.pad(x, 0.0)
        padding = window.native or "VALID"
        return tf.nn.avg_pool2d(x, layer.pool_size, layer.strides, padding)

    return _pooled(inputs[0], pool)


@rewrites(keras.MaxPooling2D, layers.SymmetricMaxPooling2D)
def _max_pool(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    window = context.window(layer, inputs[0].shape)

    def pool(x):
        x = x if window.native else window.pad(x, x.dtype.min)
        padding = window.native or "VALID"
        return tf.nn.max_pool2d(x, layer.pool_size, layer.strides, padding)

    if np.all(np.greater(inputs[0].scale, 0)):
        return _pooled(inputs[0], pool)
    return stream(pool(inputs[0].exact()))


def _pooled(value: Value, pool: Callable[[tf.Tensor], tf.Tensor]) -> Value:
    """Pool the core of a value: averages commute, and maxima at positive scale."""
    value = value.settled()
    return stream(pool(value.emit(1.0, 0.0))).affine(value.scale, value.offset)


@rewrites(keras.Dense)
def _dense(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    value = inputs[0].settled()
    x = value.emit(1.0, 0.0)
    if x.shape.rank != 2:
        raise UserError(
            f"Layer {layer.name!r} must follow pooling or flattening",
            got=f"input of shape {tuple(x.shape[1:])}",
            fix="put GlobalAveragePooling2D in front",
        )
    kernel = values_of(layer.kernel)
    offset = np.broadcast_to(value.offset, kernel.shape[:1]) @ kernel
    kernel = kernel * np.reshape(value.scale, (-1, 1))

    def emit(scale, shift):
        with scope(layer):
            y = tf.matmul(x, constant(kernel * scale, x))
            return y + constant(shift, x) if np.any(shift) else y

    if layer.use_bias:
        offset = offset + values_of(layer.bias)
    return activated(layer, linear(emit, (layer.units,), offset=offset))


def activated(layer: Layer, value: Value) -> Value:
    """Apply the activation that a layer has built in."""
    if layer.activation in (None, tf.keras.activations.linear):
        return value
    return stream(layer.activation(value.exact()))
