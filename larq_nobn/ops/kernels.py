"""Kernels: standardized, binarized and scaled in few passes over memory."""

import math as _math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from larq_nobn import math
from larq_nobn.math import at_least_float32
from larq_nobn.ops.fusion import channel_sum, fused, fused_sums, traced_once
from larq_nobn.ops.seam import fast_version_of, first_order


@fast_version_of(math.scaled_weight_standardization)
def scaled_weight_standardization(
    kernel: tf.Tensor,
    gamma: float = 1.0,
    eps: float = 1e-5,
    axis: Sequence[int] | None = None,
) -> tf.Tensor:
    """Two passes forward, two backward; units that are not the last axis become it."""
    kernel = tf.convert_to_tensor(kernel)
    dtype = kernel.dtype
    kernel = at_least_float32(kernel)
    gamma, eps = float(gamma), float(eps)
    rank = kernel.shape.rank
    if axis is None or sorted(i % rank for i in axis) == list(range(rank - 1)):
        return tf.cast(_standardize(kernel, gamma, eps), dtype)
    units = [i for i in range(rank) if i not in {j % rank for j in axis}]
    order = [i for i in range(rank) if i not in units] + units
    turned = tf.transpose(kernel, order)
    matrix = tf.reshape(turned, [-1, _math.prod(kernel.shape[i] for i in units)])
    standardized = tf.reshape(_standardize(matrix, gamma, eps), turned.shape)
    return tf.cast(tf.transpose(standardized, np.argsort(order)), dtype)


def _standardize(kernel: tf.Tensor, gamma: float, eps: float) -> tf.Tensor:
    @first_order
    def call(_):
        standardized, mean, std = _standardized(kernel, gamma, eps)

        def grad(dy):
            return [_standardization_gradient(kernel, dy, mean, std, gamma, eps)]

        return standardized, grad

    return call(kernel)


def _fan_in(kernel: tf.Tensor) -> int:
    return np.prod(kernel.shape[:-1])


def _positive(std: tf.Tensor, eps: float) -> tf.Tensor:
    """What to divide by; 1 in constant channels, which are zero anyway."""
    return std + eps if eps else tf.where(std > 0, std, tf.ones_like(std))


def _factor(fan_in: int, std: tf.Tensor, gamma: float, eps: float) -> tf.Tensor:
    """What multiplies w - mean."""
    return gamma * fan_in**-0.5 / _positive(std, eps)


@traced_once
def _standardized(kernel, gamma, eps):
    fan_in = _fan_in(kernel)
    mean = channel_sum(kernel) / fan_in
    (squares,) = _squared_difference(kernel, mean)
    std = tf.sqrt(squares / fan_in)
    factor = _factor(fan_in, std, gamma, eps)
    return _difference_times(kernel, mean, factor), mean, std


def _slope(
    fan_in: int, std: tf.Tensor, factor: tf.Tensor, correlation: tf.Tensor, eps: float
) -> tf.Tensor:
    """What multiplies w - mean in the gradient, by way of the deviation."""
    # A constant channel has deviation 0, where the root has no gradient: take 0.
    return tf.math.divide_no_nan(
        factor * correlation, _positive(std, eps) * std * fan_in
    )


@traced_once
def _standardization_gradient(kernel, dy, mean, std, gamma, eps):
    fan_in = _fan_in(kernel)
    factor = _factor(fan_in, std, gamma, eps)
    (correlation,) = _correlation(kernel, mean, dy)
    slope = _slope(fan_in, std, factor, correlation, eps)
    return _standardized_gradient(
        kernel, dy, mean, channel_sum(dy) / fan_in, factor, slope
    )


@fused_sums
def _squared_difference(x, mean):
    return [tf.square(x - mean)]


@fused_sums
def _correlation(x, mean, y):
    return [(x - mean) * y]


@fused
def _difference_times(x, mean, factor):
    return (x - mean) * factor


@fused
def _standardized_gradient(x, dy, mean, dy_mean, factor, slope):
    return (dy - dy_mean) * factor - (x - mean) * slope


@fast_version_of(math.scale_channels)
def scale_channels(
    kernel: tf.Tensor, gain: tf.Tensor, dtype: tf.DType | None = None
) -> tf.Tensor:
    """One pass forward and two backward."""
    dtype = tf.as_dtype(dtype or kernel.dtype)

    @first_order
    def call(*_):
        def grad(dy):
            (dgain,) = _sum_of_products(dy, kernel)
            dkernel = _product(dy, gain, kernel.dtype)
            return [dkernel, tf.reshape(tf.cast(dgain, gain.dtype), gain.shape)]

        return _product(kernel, gain, dtype), grad

    return call(kernel, gain)


@fused
def _product(x, factor, dtype):
    return tf.cast(tf.cast(factor, x.dtype) * x, dtype)


@fused_sums
def _sum_of_products(x, y):
    return [tf.cast(x, y.dtype) * y]


@fast_version_of(math.scaled_sign)
def scaled_sign(x: tf.Tensor, clip_value: float | None = 1.0) -> tf.Tensor:
    """Two passes forward, one backward."""

    @first_order
    def call(_):
        def grad(dy):
            return [dy if clip_value is None else _clipped(x, dy, float(clip_value))]

        (magnitudes,) = _magnitudes(x)
        scale = tf.cast(magnitudes / _fan_in(x), x.dtype)
        return _scaled_signs(x, scale, x.dtype), grad

    return call(x)


@fused_sums
def _magnitudes(x):
    return [tf.abs(x)]


@fused
def _clipped(x, dy, clip_value):
    return tf.where(tf.abs(x) <= clip_value, tf.cast(dy, x.dtype), tf.zeros_like(x))


@fused
def _scaled_signs(x, scale, dtype, mean=0.0):
    return tf.cast(scale * math.sign(x - mean), dtype)


@fast_version_of(math.binary_ws_kernel)
def binary_ws_kernel(
    kernel: tf.Tensor,
    gain: tf.Tensor,
    gamma: float = 1.0,
    eps: float = 1e-5,
    clip_value: float | None = 1.0,
    dtype: tf.DType | None = None,
) -> tf.Tensor:
    """All three steps at once: three passes forward, three backward."""
    dtype = tf.as_dtype(dtype or kernel.dtype)
    kernel, gain = map(at_least_float32, (kernel, gain))
    gamma, eps = float(gamma), float(eps)

    @first_order
    def call(*_):
        mean, std, magnitude = _binary_statistics(kernel, gamma, eps)

        def grad(dy):
            statistics = (tf.reshape(gain, [-1]), mean, std, magnitude)
            dkernel, dgain = _binary_gradient(
                kernel, dy, *statistics, gamma, eps, clip_value
            )
            return [dkernel, tf.reshape(dgain, gain.shape)]

        scale = magnitude * tf.reshape(gain, [-1])
        return _scaled_signs(kernel, scale, dtype, mean), grad

    return call(kernel, gain)


@traced_once
def _binary_statistics(kernel, gamma, eps):
    """Mean and deviation of each channel, and the mean of |ŵ|."""
    fan_in = _fan_in(kernel)
    mean = channel_sum(kernel) / fan_in
    squares, magnitudes = _binary_sums(kernel, mean)
    std = tf.sqrt(squares / fan_in)
    return mean, std, _factor(fan_in, std, gamma, eps) * magnitudes / fan_in


@traced_once
def _binary_gradient(kernel, dy, gain, mean, std, magnitude, gamma, eps, clip_value):
    """Gradients of kernel and gain; that of ŵ is `gain * dy` where |ŵ| <= clip."""
    fan_in = _fan_in(kernel)
    factor = _factor(fan_in, std, gamma, eps)
    # |ŵ| <= clip as a bound of |w - mean|.
    bound = mean.dtype.max if clip_value is None else clip_value / factor
    bound = tf.broadcast_to(tf.cast(bound, mean.dtype), mean.shape)
    clipped = (kernel, mean, bound, dy)
    dy_sum, correlation, dgain = _binary_gradient_sums(*clipped)
    slope = _slope(fan_in, std, factor, gain * correlation, eps)
    dkernel = _binary_standardized_gradient(
        *clipped, dy_sum / fan_in, factor * gain, slope
    )
    return dkernel, magnitude * dgain


@fused_sums
def _binary_sums(x, mean):
    x = x - mean
    return [tf.square(x), tf.abs(x)]


@fused_sums
def _binary_gradient_sums(x, mean, bound, dy):
    x, dy = x - mean, tf.cast(dy, x.dtype)
    clipped = _clip(x, bound, dy)
    return [clipped, clipped * x, dy * math.sign(x)]


def _clip(difference, bound, dy):
    return tf.where(tf.abs(difference) <= bound, dy, tf.zeros_like(dy))


@fused
def _binary_standardized_gradient(x, mean, bound, dy, dy_mean, factor, slope):
    x = x - mean
    dy = _clip(x, bound, tf.cast(dy, x.dtype))
    return (dy - dy_mean) * factor - x * slope
