"""Functions that are compiled, or traced, once for all layers of a kind."""

import contextlib
import functools
import inspect
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
        # Not the scalars: they are numbers, in whatever precision they need.
        dtypes = [x.dtype for x in args if tf.is_tensor(x) and x.shape.rank != 0]
        halves = [dtype.is_floating and dtype.size < 4 for dtype in dtypes]
        if not any(halves):
            return function(*args)
        wide = [tf.cast(x, tf.float32) if _is_half(x) else x for x in args]
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
        return compiled(*args) if will_run() else function(*args)

    return call


def will_run() -> bool:
    """Whether what is computed now is part of a graph that is going to run.

    Eager calls are few: not worth a compilation per shape. And Keras calls a layer in a
    graph of its own, which it throws away, to learn the shape of the layer's output.
    """
    if tf.executing_eagerly():
        return False
    return not tf.compat.v1.get_default_graph().name.endswith("_scratch_graph")


def number(x: float, like: tf.Tensor) -> tf.Tensor:
    """A Python number as an argument, one function for all numbers, of `fused`.

    Args:
        x: The number.
        like: A tensor that it is computed with, in at least float32.

    Returns:
        Scalar tensor.
    """
    return tf.constant(x, tf.float32 if _is_half(like) else like.dtype)


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


class Again(NamedTuple):
    """`elementwise(function, *arguments)`; cheaper to compute again than to keep."""

    function: Callable[..., tf.Tensor]
    arguments: tuple


class Gradients(NamedTuple):
    """Noted on a tensor's gradient: those of the arguments that it was computed from.

    Who has the gradient of a function's result can go on to the arguments in one pass.
    """

    of: Again
    values: tuple


class Branch:
    """What a residual branch that starts with a sign was computed from.

    Where the branch joins its source again, as a shortcut, the shortcut's gradient
    waits here for the sign's surrogate, which adds it on its way.
    """

    def __init__(self, source: tf.Tensor):
        self.source = source
        self._waiting = []

    def wait(self, gradient: tf.Tensor) -> None:
        """Leave a gradient of the source."""
        self._waiting.append(gradient)

    def take(self) -> tf.Tensor | None:
        """Take the sum of what waits."""
        gradients, self._waiting = self._waiting, []
        if len(gradients) > 1:
            return tf.add_n(gradients)
        return gradients[0] if gradients else None


Origin = Affine | Again | Gradients | Branch


def note(result: tf.Tensor, how: Origin) -> tf.Tensor:
    """Let who takes a tensor of a graph know how it was computed.

    Who can compute from the source saves a pass over memory: what nobody takes is
    never computed. Layers stay what they are, and fuse all the same.

    Args:
        result: The tensor.
        how: Its origin; a tensor can have one of each kind.

    Returns:
        The same tensor.
    """
    if not tf.executing_eagerly():
        result._larq_nobn_origins = {**_origins(result), type(how): how}
    return result


def origin(x: tf.Tensor, kind: type[Origin]) -> Origin | None:
    """What `note` noted of this kind, if anything."""
    return _origins(x).get(kind)


def _origins(x: tf.Tensor) -> dict:
    return getattr(x, "_larq_nobn_origins", {})


def factored(x: tf.Tensor) -> tuple[tf.Tensor, float | tf.Tensor]:
    """A tensor and a factor, a number or one per channel, whose product is `x`."""
    source, factor, bias = origin(x, Affine) or Affine(x)
    return (source, factor) if bias is None else (x, 1.0)


def channel_sum(x: tf.Tensor) -> tf.Tensor:
    """Sum over all axes but the last.

    Args:
        x: Tensor of shape `(..., channels)`.

    Returns:
        Tensor of shape `(channels,)`.
    """
    return tf.cast(precise_sum(x), x.dtype)


def precise_sum(x: tf.Tensor) -> tf.Tensor:
    """`channel_sum` in at least float32; in a graph, of a tensor once."""
    if tf.executing_eagerly():
        return _precise_sum(x)
    if not hasattr(x, "_larq_nobn_sum"):
        note_sum(x, _precise_sum(x))
    return x._larq_nobn_sum


def note_sum(x: tf.Tensor, total: tf.Tensor) -> None:
    """Let `precise_sum` know the sum of a tensor of a graph."""
    x._larq_nobn_sum = total


def _precise_sum(x: tf.Tensor) -> tf.Tensor:
    wide = tf.cast(x, tf.float32) if _is_half(x) else x
    if x.shape.rank == 1:
        return wide
    if _is_half(x):
        # In half precision long sums stand still.
        if _for_accelerators:
            return tf.reduce_sum(wide, range(x.shape.rank - 1))
        (x,) = _sums_of_parts(_itself, x)
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
    # The sums of half precision are wider than what is summed.
    count = 8 if all(map(_is_half, maps)) else 4
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
    args = [tf.cast(x, tf.float32) if _is_half(x) else x for x in args]
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
