"""Norms for adaptive gradient clipping, of gradient and parameter in one pass."""

from collections.abc import Sequence

import tensorflow as tf

from larq_nobn import math
from larq_nobn.ops.fusion import fused_sums, traced_once
from larq_nobn.ops.seam import fast_version_of


@fast_version_of(math.agc_scale)
def agc_scale(
    gradient: tf.Tensor,
    parameter: tf.Tensor,
    clip_factor: float,
    eps: float,
    units: Sequence[int] | None = None,
) -> tf.Tensor:
    """One pass over both, where the units are the last axes."""
    rank = parameter.shape.rank
    if units is not None:
        units = tuple(sorted(i % rank for i in units))
    return _agc_scale(gradient, parameter, float(clip_factor), float(eps), units)


@traced_once
def _agc_scale(gradient, parameter, clip_factor, eps, units):
    shape = parameter.shape
    first = shape.rank - (1 if units is None else len(units))
    are_last = units is None or units == (*range(first, shape.rank),)
    if not are_last or first == shape.rank or shape[:first].num_elements() == 1:
        return math.agc_scale(gradient, parameter, clip_factor, eps, units)
    count = shape[first:].num_elements()
    matrices = [tf.reshape(x, [-1, count]) for x in (gradient, parameter)]
    broadcast = [1] * first + shape[first:].as_list()
    norms = [tf.sqrt(tf.reshape(x, broadcast)) for x in _squares(*matrices)]
    return math.clipping_factor(*norms, clip_factor, eps)


@fused_sums
def _squares(*tensors):
    return [tf.square(x) for x in tensors]
