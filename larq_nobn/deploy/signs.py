"""Signs: in front of binary convolutions, and as layers of their own."""

from collections.abc import Callable, Sequence

import larq as lq
import numpy as np
import tensorflow as tf

from larq_nobn import layers, quantizers
from larq_nobn.deploy.rules import Context, rewrites, values_of
from larq_nobn.deploy.values import Value, stream

Layer = tf.keras.layers.Layer
_QUANTIZERS = [
    cls
    for module in (lq.quantizers, quantizers, layers)
    for cls in vars(module).values()
    if isinstance(cls, type)
    and issubclass(cls, lq.quantizers.Quantizer)
    and not cls.__subclasses__()
]


@rewrites(*_QUANTIZERS)
def _quantizer(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Its sign is the binary convolution's behind it; otherwise as it is."""
    if not is_sign(layer):
        return stream(layer.call(inputs[0].exact()))
    value = inputs[0]
    if isinstance(layer, layers.RSign):
        value = value.affine(offset=values_of(layer.bias))
    value = value.settled()

    def emit(scale, offset):
        # Not as Larq Compute Engine knows signs: it would take a convolution of them,
        # behind a border of zeros, for one with a border of ones.
        with context.scope(layer):
            x = value.of_same_sign()
            if context.target.binary:
                signs = 2.0 * tf.cast(x >= 0, x.dtype) - 1.0
            else:
                signs = where_not_negative(x, context)
            return stream(signs).emit(scale, offset)

    return Value(emit, value.shape, sign_of=value)


def is_sign(quantizer: Callable) -> bool:
    """Whether a quantizer computes a sign (behind a shift, if it is an `RSign`)."""
    if isinstance(quantizer, layers.RSign):
        quantizer = quantizer.quantizer
    with tf.init_scope():
        probe = np.float32([-3, -1, -0.25, -1e-3, 0, 1e-3, 0.25, 1, 3])
        result = np.asarray(quantizer(tf.constant(probe)))
    return np.array_equal(result, np.where(probe < 0, -1, 1))


def meant_binary(layer: Layer, value: Value) -> bool:
    """Whether a layer's input is quantized: by itself, or by a layer in front of it."""
    if getattr(layer, "input_quantizer", None) is not None:
        return True
    has_signs = value.sign_of is not None and value.is_core
    return has_signs and getattr(layer, "kernel_quantizer", None) is not None


def quantized_input(layer: Layer, value: Value, context: Context, reason: str) -> Value:
    """Quantize the input of a layer that stays float, and note why it does.

    Args:
        layer: A layer that may have an `input_quantizer`.
        value: Its input.
        context: Where to note it.
        reason: Why it is no binary convolution.
    """
    quantizer = getattr(layer, "input_quantizer", None)
    if not meant_binary(layer, value):
        return value
    context.float_layers[context.names[id(layer)]] = reason
    if quantizer is None:
        return value
    if is_sign(quantizer):
        return stream(sign(before_sign(layer, value), context))
    return stream(quantizer(value.exact()))


def before_sign(layer: Layer, value: Value) -> Value:
    """Return what a layer's binary input is the sign of."""
    quantizer = getattr(layer, "input_quantizer", None)
    if isinstance(quantizer, layers.RSign):
        return value.affine(offset=values_of(quantizer.bias))
    is_sign_already = value.sign_of is not None and value.is_core
    return value.sign_of if is_sign_already else value


def sign(value: Value, context: Context) -> tf.Tensor:
    """Return the tensor of a value's signs, which all who ask for it share."""
    if value not in context.signs:
        context.signs[value] = where_not_negative(value.of_same_sign(), context)
    return context.signs[value]


def where_not_negative(x: tf.Tensor, context: Context) -> tf.Tensor:
    """Return signs, in the form that Larq Compute Engine knows for its targets."""
    if context.target.binary:
        return tf.where(x >= 0, tf.ones_like(x), -tf.ones_like(x))
    # Numbers make it SELECT_V2, the one that TensorFlow Lite Micro has.
    one = tf.ones([], x.dtype)
    return tf.where(x >= 0, one, -one)
