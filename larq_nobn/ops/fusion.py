"""Functions that are compiled, or traced, once for all layers of a kind."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from larq_nobn.math import at_least_float32, is_half
from larq_nobn.ops.seam import is_fast


def fused(function: Callable) -> Callable:
    """Let XLA compile an element-wise function, wherever it is part of a graph.

    TensorFlow's CPU kernels go through memory once per operator, and its `where` is
    several times slower than the rest; XLA goes once per function. Not for reductions:
    XLA sums over rows slowly, `fused_sums` do not. Half precision computes in
    float32, which CPUs do faster, and rounds the results; not those of half precision
    with full.

    Args:
        function: Maps tensors, and arguments that can be dictionary keys, to a tensor
            of the shape to which the tensors broadcast.

    Returns:
        The same function.
    """

    @functools.wraps(function)
    def in_float32(*args):
        # Scalars keep their own precision.
        dtypes = [x.dtype for x in args if tf.is_tensor(x) and x.shape.rank != 0]
        halves = [dtype.is_floating and dtype.size < 4 for dtype in dtypes]
        if not any(halves):
            return function(*args)
        wide = [*map(at_least_float32, args)]
        result = function(*wide)
        return tf.cast(result, dtypes[0]) if all(halves) else result

    compiled = _compiled_for_all_sizes(in_float32)

    @functools.wraps(function)
    def call(*args):
        result = compiled(*args)
        shapes = [x.shape for x in args if tf.is_tensor(x)]
        result.set_shape(functools.reduce(tf.broadcast_static_shape, shapes))
        return result

    return call


def compiled(function: Callable) -> Callable:
    """Let XLA compile any function, shape by shape, wherever it is part of a graph.

    Args:
        function: Maps tensors, and arguments that can be dictionary keys, to tensors.

    Returns:
        The same function.
    """
    return _in_graphs(
        function, tf.function(function, jit_compile=True, autograph=False)
    )


def _compiled_for_all_sizes(function: Callable) -> Callable:
    """Trace a function of a graph once per rank and dtype; XLA compiles by shape.

    Tracing is what a network's start mostly waits for. Shapes of results are unknown.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args):
        bound = signature.bind(*args)
        bound.apply_defaults()  # A concrete function does not.
        args = bound.args
        kinds = [
            tf.TensorSpec([None] * x.shape.rank, x.dtype) if tf.is_tensor(x) else x
            for x in args
        ]
        return compiled.get_concrete_function(*kinds)(*args)

    return _in_graphs(function, call)


def traced_once(function: Callable) -> Callable:
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
        return compiled(*args) if is_fast() else function(*args)

    return call


def number(x: float, like: tf.Tensor) -> tf.Tensor:
    """A Python number as an argument, one function for all numbers, of `fused`.

    Args:
        x: The number.
        like: A tensor that it is computed with, in at least float32.

    Returns:
        Scalar tensor.
    """
    return tf.constant(x, tf.float32 if is_half(like) else like.dtype)


@fused
def elementwise(function: Callable, *arguments) -> tf.Tensor:
    """`function(*arguments)`, fused."""
    return function(*arguments)


class Recompute(NamedTuple):
    """How to compute a tensor again, which is cheaper than to keep it in memory."""

    function: Callable[..., tf.Tensor]
    arguments: tuple

    def __call__(self) -> tf.Tensor:
        """Compute it, element by element."""
        return elementwise(self.function, *self.arguments)


def channel_sum(x: tf.Tensor) -> tf.Tensor:
    """Sum over all axes but the last.

    Args:
        x: Tensor of shape `(..., channels)`.

    Returns:
        Tensor of shape `(channels,)`.
    """
    return tf.cast(precise_sum(x), x.dtype)


def precise_sum(x: tf.Tensor) -> tf.Tensor:
    """`channel_sum` in at least float32."""
    if x.shape.rank == 1:
        return at_least_float32(x)
    if is_half(x):
        (x,) = _sums_of_parts(_itself, x)  # In half precision long sums stand still.
    # As a matrix: with a map TensorFlow fuses BiasAddGrad and a kernel's gradient, at
    # ten times the cost of the sum.
    return tf.raw_ops.BiasAddGrad(out_backprop=tf.reshape(x, [-1, x.shape[-1]]))


def fused_sums(function: Callable) -> Callable:
    """`channel_sum`s of an element-wise function, without its values in memory.

    Args:
        function: Maps tensors of shapes `(..., channels)`, all the same, others of
            shape `(channels,)` and numbers to a list of some of the former.

    Returns:
        A function of the same arguments; its results have shape `(channels,)` and are
        in at least float32.
    """

    def sums(*args):
        return [y for x in _sums_of_parts(function, *args) for y in _totals(x)]

    return sums


def _totals(parts: tf.Tensor) -> list[tf.Tensor]:
    """Sums over the rows, two of them where the numbers are pairs."""
    if not parts.dtype.is_complex:
        return [precise_sum(parts)]
    # TensorFlow is slow at sums of complex numbers.
    return [precise_sum(tf.math.real(parts)), precise_sum(tf.math.imag(parts))]


def _sums_of_parts(function: Callable, *args) -> list[tf.Tensor]:
    """Sums over a few parts of the rows, at least in float32, every two as a pair."""
    maps = [x for x in args if _is_map(x)]
    shape = maps[0].shape
    # Sums of half-precision values are accumulated in float32.
    count = 8 if all(map(is_half, maps)) else 4
    count = math.gcd(math.prod(n for n in shape[:-1] if n), count)
    results = _sums_of_equal_parts(count, function, *args)
    for result in results:
        result.set_shape([None, shape[-1]])
    return results


def _is_map(x) -> bool:
    return tf.is_tensor(x) and x.shape.rank > 1


@_compiled_for_all_sizes
def _sums_of_equal_parts(count: int, function: Callable, *args) -> list[tf.Tensor]:
    # XLA is slow at sums over rows, but not at sums of tensors.
    args = [*map(at_least_float32, args)]
    parts = [
        tf.unstack(tf.reshape(x, [count, -1, tf.shape(x)[-1]]))
        if _is_map(x)
        else [x] * count
        for x in args
    ]
    results = [function(*part) for part in zip(*parts, strict=True)]
    sums = [sum(terms) for terms in zip(*results, strict=True)]
    # XLA goes through memory once per result, and so once for two in complex numbers.
    paired = len(sums) // 2 * 2
    pairs = map(tf.complex, sums[:paired:2], sums[1:paired:2])
    return [*pairs, *sums[paired:]]


def _itself(x):
    return [x]
