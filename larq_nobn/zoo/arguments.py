"""Checks of `create_model`'s arguments."""

import numbers
from math import inf
from operator import index
from typing import Any

import tensorflow as tf

from larq_nobn._errors import UserError


def check_tensor(
    tensor: tf.Tensor, input_shape: tuple | None
) -> tuple[tf.Tensor, tuple]:
    """The tensor as a Keras tensor, and its shape, which `input_shape` must equal."""
    try:
        if not tf.keras.backend.is_keras_tensor(tensor):
            tensor = tf.keras.Input(tensor=tensor, name="image")
    except ValueError as error:
        raise UserError(
            f"`input_tensor` must be a Keras tensor. Received: {type(tensor).__name__}."
            " Fix: for example tf.keras.Input((32, 32, 3))."
        ) from error
    shape = tuple(tensor.shape[1:])
    if input_shape is not None and tuple(input_shape) != shape:
        raise UserError(
            "`input_shape` and `input_tensor` must agree. Received: "
            f"input_shape={tuple(input_shape)}, input_tensor of shape {shape}. "
            "Fix: leave out input_shape."
        )
    return tensor, shape


def checked_shape(input_shape: Any, stride: int, stem: str) -> tuple:
    """The shape of the images, checked against the product of the strides."""
    try:
        shape = tuple(None if size is None else index(size) for size in input_shape)
        height, width, channels = shape
        fits = all(s is None or (s > 0 and s % stride == 0) for s in (height, width))
        fits = fits and channels is not None and channels > 0
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise UserError(
            f"`input_shape` must be (height, width, channels), height and width "
            f"multiples of {stride} (the product of the network's strides) or None. "
            f"Received: {input_shape}. Fix: resize or crop the images to a multiple of "
            f"{stride}{', or use the CIFAR stem' if stem == 'imagenet' else ''}."
        )
    return shape


def check_number(what: str, value: Any, kind: type, hint: str) -> None:
    """Check that a value is a positive number, or integer, and finite."""
    wanted = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted) or not 0 < value < inf:
        noun = "integer" if kind is int else "number"
        raise UserError(
            f"`{what}` must be a positive {noun}. Received: {what}={value!r}. "
            f"Fix: {hint}."
        )
