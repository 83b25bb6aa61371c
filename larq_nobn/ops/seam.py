"""Which implementation of the formulas computes: decided here, and nowhere else."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import tensorflow as tf

from larq_nobn import _keras2
from larq_nobn._errors import UserError, one_of

MODES = ("plain", "cpu", "accelerator")

_chosen: list[str] = []


@contextlib.contextmanager
def using(mode: str) -> Iterator[None]:
    """Choose the implementation of what is traced, or computed eagerly, inside.

    The variable `LARQ_NOBN_OPS` chooses for a process. By default it is `"cpu"`, or
    `"accelerator"` where TensorFlow has a GPU. All give the same numbers, but for the
    order of sums.

    Args:
        mode: `"plain"`, the formulas of `larq_nobn.math` as they stand, which have
            gradients of gradients too; `"cpu"`, few passes over memory in graphs
            (eagerly it is plain); `"accelerator"`, the plain operators, which the
            compiler of a GPU or TPU fuses by itself, with no wish for a CPU's kernels.

    Raises:
        UserError: If the mode is unknown.

    Example:
        >>> with ops.using("plain"):
        ...     step = tf.function(train_step).get_concrete_function(batch)
    """
    one_of("mode", mode, MODES)
    _chosen.append(mode)
    try:
        yield
    finally:
        _chosen.pop()


def mode() -> str:
    """The mode that holds here."""
    return _chosen[-1] if _chosen else _of_process()


@functools.cache
def _of_process() -> str:
    chosen = os.environ.get("LARQ_NOBN_OPS")
    if chosen is None:
        has_gpu = tf.config.list_physical_devices("GPU")
        return "accelerator" if has_gpu else "cpu"
    if chosen not in MODES:
        raise UserError(
            f"The variable LARQ_NOBN_OPS must be one of {', '.join(MODES)}",
            got=repr(chosen),
            fix="choose one of these, or unset it",
        )
    return chosen


def is_fast() -> bool:
    """Whether what is computed now is part of a graph that a CPU is going to run.

    Eager calls are few: not worth a compilation per shape. And Keras calls a layer in a
    graph of its own, which it throws away, to learn the shape of the layer's output.
    """
    if tf.executing_eagerly() or mode() != "cpu":
        return False
    return not _keras2.is_scratch_graph(tf.compat.v1.get_default_graph())


def fast_version_of(plain: Callable) -> Callable[[Callable], Callable]:
    """Make the fast implementation of a plain function the one that is called.

    Args:
        plain: The function of `larq_nobn.math`.

    Returns:
        Decorator of a function with the same arguments and results.
    """

    def decorate(fast: Callable) -> Callable:
        @functools.wraps(plain)
        def call(*args, **kwargs):
            return (fast if is_fast() else plain)(*args, **kwargs)

        call.plain, call.fast = plain, fast
        return call

    return decorate


def first_order(function: Callable) -> Callable:
    """Let a fast function's gradient be an error when it is differentiated itself.

    It is computed by other formulas than the derivatives of the forward pass, and of
    these TensorFlow would give wrong gradients, or none.

    Args:
        function: As `tf.custom_gradient` takes it; its gradient function returns a
            list, `None` for what has no gradient.

    Returns:
        The function, with a custom gradient.
    """

    @functools.wraps(function)
    def call(*args):
        result, gradient = function(*args)

        def guarded(*dys):
            return [dx if dx is None else _last(dx) for dx in gradient(*dys)]

        return result, guarded

    return tf.custom_gradient(call)


def _last(dx: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.PreventGradient(
        input=dx,
        message="the fast operators of larq_nobn have first derivatives only. Fix: "
        "trace with larq_nobn.ops.using('plain'), or set LARQ_NOBN_OPS=plain.",
    )
