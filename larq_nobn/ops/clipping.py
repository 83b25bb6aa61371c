"""Norms for adaptive gradient clipping, of gradient and parameter in one pass."""

import tensorflow as tf

from larq_nobn import math
from larq_nobn.ops.fusion import fused_sums, traced_once
from larq_nobn.ops.seam import fast_version_of


@fast_version_of(math.agc_scale)
def agc_scale(
    gradient: tf.Tensor, parameter: tf.Tensor, clip_factor: float, eps: float
) -> tf.Tensor:
    """One pass over both."""
    return _agc_scale(gradient, parameter, float(clip_factor), float(eps))


@traced_once
def _agc_scale(gradient, parameter, clip_factor, eps):
    if gradient.shape.rank < 2 or gradient.shape[:-1].num_elements() == 1:
        return math.agc_scale(gradient, parameter, clip_factor, eps)
    units = [1] * (gradient.shape.rank - 1) + [-1]
    norms = [tf.sqrt(tf.reshape(x, units)) for x in _squares(gradient, parameter)]
    return math.clipping_factor(*norms, clip_factor, eps)


@fused_sums
def _squares(*tensors):
    return [tf.square(x) for x in tensors]
