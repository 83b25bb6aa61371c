"""Tensors with a pending scale and offset per channel, and when they become operators.

Folding works by procrastination. Batch norm, α, β, gains and biases only change the two
numbers that a tensor still waits for; an operator that can take them in for free (a
convolution's multiplier and bias, a sign that does not care for scale) does so, and
only what nothing took in is multiplied or added at run time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

# One number per channel, or one for all.
Numbers = np.ndarray | float
Emit = Callable[[Numbers, Numbers], tf.Tensor]
# More than any binary convolution adds up to; float32 has halves up to twice it.
_MANY = 2.0**21


@dataclass(frozen=True, eq=False)
class Value:
    r"""The tensor \\(scale \cdot core + offset\\), whose operators are yet to come.

    Attributes:
        emit: Creates the operators of `a * core + b` for given `a` and `b`. It must be
            called once only, or the operators exist twice.
        shape: The tensor's shape without the batch axis; channels come last.
        scale: Pending factor, `()` or `(channels,)`, float64.
        offset: Pending summand, likewise.
        free_scale: Whether `a` costs no operator of its own.
        free_offset: Whether `b` costs no operator of its own.
        whole: Whether the core is of whole numbers.
        sign_of: What the core is the sign of, if it is one: binary convolutions take
            the sign themselves. The core may then be created any number of times.
    """

    emit: Emit
    shape: tuple[int, ...]
    scale: Numbers = 1.0
    offset: Numbers = 0.0
    free_scale: bool = False
    free_offset: bool = False
    whole: bool = False
    sign_of: "Value | None" = None

    @property
    def is_core(self) -> bool:
        """Whether neither scale nor offset are pending."""
        return bool(np.all(np.equal(self.scale, 1)) and not np.any(self.offset))

    def affine(self, scale: Numbers = 1.0, offset: Numbers = 0.0) -> "Value":
        """Return this value times `scale` plus `offset`."""
        return replace(
            self, scale=self.scale * scale, offset=self.offset * scale + offset
        )

    def exact(self) -> tf.Tensor:
        """Create the operators of the value itself."""
        return self.emit(self.scale, self.offset)

    def up_to_scale(self) -> tuple[tf.Tensor, Numbers]:
        """Create the operators of the value but for a positive factor.

        Returns:
            A tensor and the factor that it still has to be multiplied by.
        """
        if self.free_scale or not np.all(np.greater(self.scale, 0)):
            return self.exact(), 1.0
        return self.emit(1.0, self.offset / self.scale), self.scale

    def of_same_sign(self) -> tf.Tensor:
        """Create the operators of a tensor with the value's signs, 0 counting as +1.

        Of whole numbers n, s * n + t is not negative exactly where
        sign(s) * n + floor(t / |s|) + 1/2 is positive. That is exact in float32 and
        never 0, so that no rounding of another runtime moves the threshold.
        """
        if not self.whole:
            return self.up_to_scale()[0]
        scale = np.asarray(self.scale, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.floor(self.offset / np.abs(scale))
        never_or_always = np.where(np.less(self.offset, 0), -_MANY, _MANY)
        steps = np.where(scale == 0, never_or_always, np.clip(steps, -_MANY, _MANY))
        return self.emit(np.sign(scale), steps + 0.5)

    def settled(self) -> "Value":
        """Create the operators that are needed in any case; leave pending what may be.

        Returns:
            A value that can be used any number of times.
        """
        if self.sign_of is not None:
            return self
        if self.free_scale and self.free_offset:
            return stream(self.exact())
        if self.free_offset:
            tensor, scale = self.up_to_scale()
            return stream(tensor).affine(scale)
        return stream(self.emit(1.0, 0.0)).affine(self.scale, self.offset)


def constant(numbers: Numbers, like: tf.Tensor) -> tf.Tensor:
    """Return numbers as a constant of a tensor's dtype."""
    return tf.constant(np.asarray(numbers), like.dtype)


def stream(tensor: tf.Tensor) -> Value:
    """Return an existing tensor as a value: scale and offset cost an operator each."""

    def emit(scale, offset):
        y = tensor
        if np.any(np.not_equal(scale, 1)):
            y = y * constant(scale, y)
        if np.any(np.not_equal(offset, 0)):
            y = y + constant(offset, y)
        return y

    return Value(emit, tuple(tensor.shape[1:]))


def linear(
    emit: Emit,
    shape: tuple[int, ...],
    *,
    scale: Numbers = 1.0,
    offset: Numbers = 0.0,
    whole: bool = False,
) -> Value:
    """Return the value of an operator that takes in scale and offset for free.

    Args:
        emit: See `Value`.
        shape: Shape without the batch axis.
        scale: Pending factor.
        offset: Pending summand.
        whole: As in `Value`.
    """
    return Value(
        emit, shape, scale, offset, free_scale=True, free_offset=True, whole=whole
    )


def reshaped(value: Value, shape: tuple[int, ...]) -> Value:
    """Return a value in another shape with the same channels.

    Args:
        value: The value.
        shape: The new shape, without the batch axis.
    """

    def emit(scale, offset):
        return tf.reshape(value.emit(scale, offset), [-1, *shape])

    before = None if value.sign_of is None else reshaped(value.sign_of, shape)
    return replace(value, emit=emit, shape=tuple(shape), sign_of=before)


def weighted_sum(values: Sequence[Value], factors: Sequence[float]) -> Value:
    """Add up values, each times a factor.

    The sum keeps the scale of the first summand that cannot take one in (a shortcut);
    the others adapt to it, which costs nothing where they are convolutions.

    Args:
        values: The summands, of equal shape.
        factors: One number per summand.
    """
    terms = [v.affine(factor) for v, factor in zip(values, factors, strict=True)]
    scale: Numbers = 1.0
    for term in terms:
        if not term.free_scale and np.all(np.greater(term.scale, 0)):
            scale = term.scale
            break
    taker = next((i for i, term in enumerate(terms) if term.free_offset), 0)

    def emit(a, b):
        parts = [
            term.emit(term.scale / scale * a, b if i == taker else 0.0)
            for i, term in enumerate(terms)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    return Value(
        emit,
        terms[0].shape,
        scale,
        sum(term.offset for term in terms),
        free_scale=all(term.free_scale for term in terms),
        free_offset=any(term.free_offset for term in terms),
    )


def concatenate(values: Sequence[Value]) -> Value:
    """Join values along the channels."""
    sizes = [value.shape[-1] for value in values]
    borders = np.cumsum([0, *sizes])

    def part(numbers, i):
        if np.ndim(numbers) == 0:
            return numbers
        return np.asarray(numbers)[borders[i] : borders[i + 1]]

    def joined(numbers):
        first = numbers[0]
        if all(np.ndim(n) == 0 and n == first for n in numbers):
            return first
        return np.concatenate(
            [np.broadcast_to(n, s) for n, s in zip(numbers, sizes, strict=True)]
        )

    def emit(a, b):
        parts = [v.emit(part(a, i), part(b, i)) for i, v in enumerate(values)]
        return tf.concat(parts, -1)

    return Value(
        emit,
        (*values[0].shape[:-1], sum(sizes)),
        joined([v.scale for v in values]),
        joined([v.offset for v in values]),
        free_scale=all(v.free_scale for v in values),
        free_offset=all(v.free_offset for v in values),
    )
