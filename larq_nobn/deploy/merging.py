"""What becomes of layers with several inputs, and of operators such as `x * 2 + 1`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from larq_nobn import layers
from larq_nobn._keras2 import SlicingOpLambda, TFOpLambda, arguments_of
from larq_nobn.deploy.rewrites import exactly
from larq_nobn.deploy.rules import Context, rewrites
from larq_nobn.deploy.values import Value, concatenate, stream, weighted_sum

keras = tf.keras.layers
Layer = tf.keras.layers.Layer


@rewrites(layers.ScaledAdd)
def _scaled_add(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A sum, its factor folded."""
    return in_scope(layer, context, weighted_sum(inputs, [layer.alpha, 1.0]))


@rewrites(keras.Add)
def _add(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A sum."""
    return _weighted(layer, inputs, context, [1.0] * len(inputs))


@rewrites(keras.Subtract)
def _subtract(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A sum, its sign folded."""
    return _weighted(layer, inputs, context, [1.0, -1.0])


@rewrites(keras.Average)
def _average(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A sum, its divisor folded."""
    return _weighted(layer, inputs, context, [1 / len(inputs)] * len(inputs))


def _weighted(
    layer: Layer, inputs: Sequence[Value], context: Context, factors: list[float]
) -> Value:
    if any(value.shape != inputs[0].shape for value in inputs):
        return _elementwise(layer, inputs, context)
    return in_scope(layer, context, weighted_sum(inputs, factors))


@rewrites(keras.Multiply, keras.Maximum, keras.Minimum)
def _elementwise(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is, squeeze-and-excite too."""
    # Images may be turned here: both or, where one is a pixel, no matter.
    if any(len(value.shape) != len(inputs[0].shape) for value in inputs):
        return exactly(layer, inputs, context)[0]
    return stream(layer.call([value.exact() for value in inputs]))


@rewrites(keras.Concatenate)
def _concatenate(
    layer: Layer, inputs: Sequence[Value], context: Context
) -> Value | list[Value]:
    """As it is, along any axis."""
    if layer.axis not in (-1, len(inputs[0].shape)):
        return exactly(layer, inputs, context)
    return in_scope(layer, context, concatenate(inputs))


def in_scope(layer: Layer, context: Context, value: Value) -> Value:
    """Name the operators of a value after a layer."""

    def emit(scale, offset):
        with context.scope(layer):
            return value.emit(scale, offset)

    return replace(value, emit=emit)


# What `x * 2 + 1` consists of: how two terms add up, by TensorFlow's names.
_SUMS = {
    "__operators__.add": 1.0,
    "math.add": 1.0,
    "math.subtract": -1.0,
}


@rewrites(TFOpLambda, SlicingOpLambda)
def _operator(
    layer: Layer, inputs: Sequence[Value], context: Context
) -> Value | list[Value]:
    """`x * 2 + 1` is folded, `x + y` and `x - y` are sums; others as they are."""
    call = context.call
    if all(x.dtype.is_floating for x in call.inputs):
        values = {id(x): value for x, value in zip(call.inputs, inputs, strict=True)}
        terms, named = arguments_of(call, values)
        result = None
        if not {k for k, v in named.items() if v is not None} - {"name"}:
            result = _arithmetic(layer, layer.symbol, terms, context)
        if result is not None:
            return result
    return exactly(layer, inputs, context)


def _arithmetic(
    layer: Layer, symbol: str, terms: Sequence, context: Context
) -> Value | None:
    """Fold arithmetic with constants, and sums; `None` if it is something else."""
    if symbol == "math.negative":
        return terms[0].affine(-1.0)
    if symbol == "identity":
        return terms[0]
    if len(terms) != 2 or symbol not in (*_SUMS, "math.multiply", "math.truediv"):
        return None
    one, other = terms
    if isinstance(one, Value) and isinstance(other, Value):
        if symbol in _SUMS and one.shape == other.shape:
            total = weighted_sum(terms, [1.0, _SUMS[symbol]])
            return in_scope(layer, context, total)
        return None
    is_first = isinstance(one, Value)
    value, constant = (one, other) if is_first else (other, one)
    numbers = _numbers(constant, value)
    if numbers is None:
        return None
    if symbol == "math.multiply":
        return value.affine(numbers)
    if symbol in _SUMS:
        sign = _SUMS[symbol]
        if is_first:
            return value.affine(offset=sign * numbers)
        return value.affine(sign, numbers)
    if is_first and np.all(numbers):
        return value.affine(1 / numbers)
    return None


def _numbers(constant, value: Value) -> np.ndarray | None:
    """Return a constant as numbers per channel, `None` if it is none."""
    with tf.init_scope():
        numbers = np.asarray(constant, np.float64)
    if numbers.size == 1 and numbers.ndim <= len(value.shape) + 1:
        return numbers.reshape(())
    if numbers.shape[-1:] == value.shape[-1:] and numbers.size == numbers.shape[-1]:
        return numbers.reshape(-1)
    return None
