"""Functions that are compiled, or traced, once for all layers of a kind."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import tensorflow as tf

_for_accelerators = False


@contextlib.contextmanager
def for_accelerators() -> Iterator[None]:
    """Trace plain operators, which the compiler of an accelerator knows best."""
    global _for_accelerators
    before, _for_accelerators = _for_accelerators, True
    try:
        yield
    finally:
        _for_accelerators = before


def is_for_accelerators() -> bool:
    """Whether what is traced now is for an accelerator."""
    return _for_accelerators


def fused(function: Callable) -> Callable:
    """Let XLA compile an element-wise function, wherever it is part of a graph.

    TensorFlow's CPU kernels go through memory once per operator, and its `where` is
    several times slower than the rest; XLA goes once per function. Not for reductions:
    XLA sums over rows slowly, `channel_sum` does not. Half precision computes in
    float32, which CPUs do faster, and rounds the results; not those of half precision
    with full.

    Args:
        function: Maps tensors, and arguments that can be dictionary keys, to tensors.

    Returns:
        The same function.
    """

    @functools.wraps(function)
    def in_float32(*args):
        halves = [_is_half(x) for x in args if tf.is_tensor(x)]
        if not any(halves):
            return function(*args)
        wide = [tf.cast(x, tf.float32) if _is_half(x) else x for x in args]
        results = function(*wide)
        if not all(halves):
            return results
        dtype = next(x.dtype for x in args if tf.is_tensor(x))
        return tf.nest.map_structure(lambda x: tf.cast(x, dtype), results)

    return _in_graphs(
        in_float32, tf.function(in_float32, jit_compile=True, autograph=False)
    )


def _is_half(x) -> bool:
    return tf.is_tensor(x) and x.dtype.is_floating and x.dtype.size < 4


def shared(function: Callable) -> Callable:
    """Let all calls of a function in a graph, of one signature, be of one subgraph.

    Tracing costs by the operator; a network calls these for every variable.

    Args:
        function: Maps tensors, and arguments that can be dictionary keys, to tensors.

    Returns:
        The same function.
    """
    return _in_graphs(function, tf.function(function, autograph=False))


def _in_graphs(function: Callable, compiled: Callable) -> Callable:
    @functools.wraps(function)
    def call(*args):
        # Eager calls are few: not worth a compilation per shape.
        return function(*args) if tf.executing_eagerly() else compiled(*args)

    return call


@fused
def elementwise(function: Callable, *arguments) -> tf.Tensor:
    """`function(*arguments)`, fused."""
    return function(*arguments)


class Affine(NamedTuple):
    """`factor * source + bias`, which is how a tensor was computed.

    Bias and, if it is none, factor are numbers or tensors of `(..., channels)`.
    """

    source: tf.Tensor
    factor: float | tf.Tensor = 1.0
    bias: tf.Tensor | None = None


class Signs(NamedTuple):
    """`scale * sign(source)`, with a scale per channel."""

    source: tf.Tensor
    scale: tf.Tensor


class Again(NamedTuple):
    """`elementwise(function, *arguments)`; cheaper to compute again than to keep."""

    function: Callable[..., tf.Tensor]
    arguments: tuple


Origin = Affine | Signs | Again


def note(result: tf.Tensor, how: Origin) -> tf.Tensor:
    """Let who takes a tensor of a graph know how it was computed.

    Who can compute from the source saves a pass over memory: what nobody takes is
    never computed. Layers stay what they are, and fuse all the same.

    Args:
        result: The tensor.
        how: Its origin.

    Returns:
        The same tensor.
    """
    if not tf.executing_eagerly():
        result._larq_nobn_origin = how
    return result


def origin(x: tf.Tensor, kind: type[Origin]) -> Origin | None:
    """What `note` noted, if it is of this kind."""
    how = getattr(x, "_larq_nobn_origin", None)
    return how if isinstance(how, kind) else None


def factored(x: tf.Tensor) -> tuple[tf.Tensor, float | tf.Tensor]:
    """A tensor and a factor, a number or one per channel, whose product is `x`."""
    source, factor, bias = origin(x, Affine) or Affine(x)
    return (source, factor) if bias is None else (x, 1.0)


def channel_sum(x: tf.Tensor) -> tf.Tensor:
    """Sum over all axes but the last, by TensorFlow's fastest kernel for that.

    Args:
        x: Tensor of shape `(..., channels)`.

    Returns:
        Tensor of shape `(channels,)`.
    """
    if x.shape.rank == 1:
        return x
    if not _is_half(x):
        return tf.raw_ops.BiasAddGrad(out_backprop=x)
    # BiasAddGrad adds up in half precision, where long sums stand still.
    rows = tf.reshape(x, [-1, x.shape[-1]])
    if not _for_accelerators and _multiplies_in_float32(x.dtype):
        return tf.matmul(tf.ones([1, tf.shape(rows)[0]], x.dtype), rows)[0]
    return tf.cast(tf.reduce_sum(tf.cast(rows, tf.float32), 0), x.dtype)


def fused_sum(function: Callable) -> Callable:
    """`channel_sum` of an element-wise function, without its values in memory.

    XLA adds up the rows of four parts of the maps, and `channel_sum` the rest: XLA is
    slow at sums over rows, but not at sums of tensors.

    Args:
        function: Maps tensors of shapes `(..., channels)`, all the same, and
            `(channels,)` to one of the former.

    Returns:
        A function of the same arguments; its results have shape `(channels,)`.
    """

    @fused
    def sum_of_parts(*args):
        known = math.prod(n for n in args[0].shape[:-1] if n)
        count = math.gcd(known, 4)
        parts = [
            tf.unstack(tf.reshape(x, [count, -1, x.shape[-1]]))
            if x.shape.rank > 1
            else [x] * count
            for x in args
        ]
        return sum(function(*part) for part in zip(*parts, strict=True))

    return lambda *args: channel_sum(sum_of_parts(*args))


@functools.cache
def _multiplies_in_float32(dtype: tf.DType) -> bool:
    """Whether matrix products of half precision add up in float32 on this machine."""
    with tf.init_scope():
        # float16, which cannot hold the sum, never passes.
        ones = tf.ones((1, 2**17), dtype)
        total = tf.matmul(ones, tf.ones((2**17, 8), dtype))
        return bool(tf.reduce_all(tf.cast(total, tf.float32) == 2.0**17))
