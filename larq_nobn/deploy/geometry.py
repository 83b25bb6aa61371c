"""Padding: which rows a window really sees, and how to say so to a converter.

TensorFlow's `same` puts the odd row of a strided window behind the image, PyTorch's
symmetric padding in front of it. Turned by 180 degrees, image, kernels and all, the one
becomes the other: a network with symmetric padding that runs on turned images needs no
padding operator at all, and its strided binary convolutions are plain `same` ones,
zeros included. Turning costs one operator, on the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from larq_nobn.layers import QuantConv2D, SymmetricMaxPooling2D

Border = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A sliding window over the two axes of an image.

    Attributes:
        size: Height and width of the input.
        kernel: Height and width of the window.
        strides: Strides.
        dilations: Distance between the window's rows and between its columns.
        borders: How far it reaches beyond the image, `((top, bottom), (left, right))`;
            negative where it does not reach the end.
        count: Height and width of the output.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    borders: tuple[Border, Border]
    count: tuple[int, int]

    @property
    def is_padded(self) -> bool:
        """Whether the window sees anything outside the image."""
        return max(max(border) for border in self.borders) > 0

    @property
    def native(self) -> str | None:
        """TensorFlow's name for this padding, `None` if it has none."""
        if all(before == 0 and after <= 0 for before, after in self.borders):
            return "VALID"
        axes = zip(self.size, self.kernel, self.strides, self.dilations, strict=True)
        same = tuple(_border(*axis, "same") for axis in axes)
        return "SAME" if same == self.borders else None

    @property
    def exceeds_image(self) -> bool:
        """Whether the window is larger than the image, in either direction."""
        axes = zip(self.size, self.kernel, self.dilations, strict=True)
        return any(size < (kernel - 1) * step + 1 for size, kernel, step in axes)

    def turned(self) -> "Window":
        """Return the window as it is on an image turned by 180 degrees."""
        rows, columns = self.borders
        axes = (self.size, self.kernel, self.strides, self.dilations)
        return Window(*axes, (rows[::-1], columns[::-1]), self.count)

    def pad(self, x: tf.Tensor, value: float) -> tf.Tensor:
        """Pad, and cut off what the window skips in front of the image.

        Args:
            x: Tensor of shape `(batch, height, width, channels)`.
            value: What to pad with.

        Returns:
            A tensor on which a `VALID` window sees what this one sees.
        """
        (top, _), (left, _) = self.borders
        if top < 0 or left < 0:
            x = x[:, max(-top, 0) :, max(-left, 0) :]
        widths = [[max(n, 0) for n in border] for border in self.borders]
        if any(map(any, widths)):
            x = tf.pad(x, [[0, 0], *widths, [0, 0]], constant_values=value)
        return x


def window_of(layer: tf.keras.layers.Layer, shape: tuple[int, ...]) -> Window:
    """Return the window of a convolution or pooling layer.

    Args:
        layer: A Keras or Larq layer; its padding may be `"symmetric"`.
        shape: Shape of its input, `(height, width, channels)`, or `(steps, channels)`,
            which is an image of one row.
    """
    is_pool = hasattr(layer, "pool_size")
    kernel = _pair(layer.pool_size if is_pool else layer.kernel_size)
    dilations = (1, 1) if is_pool else _pair(layer.dilation_rate)
    strides, size = _pair(layer.strides), _pair(shape[:-1])
    padding = padding_of(layer)
    axes = list(zip(size, kernel, strides, dilations, strict=True))
    rows, columns = (_border(*axis, padding) for axis in axes)
    count = tuple(_count(*axis, padding) for axis in axes)
    return Window(size, kernel, strides, dilations, (rows, columns), count)


def pointwise(size: tuple[int, int]) -> Window:
    """Return the window that sees one pixel at a time."""
    return Window(size, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), size)


def _pair(numbers: int | Sequence[int]) -> tuple[int, int]:
    """Return numbers of a height and a width, the height 1 where there is none."""
    pair = (1, *np.atleast_1d(numbers).tolist())
    return pair[-2:]


def padding_of(layer: tf.keras.layers.Layer) -> str:
    """Return `"valid"`, `"same"`, `"symmetric"` or `"causal"`."""
    if isinstance(layer, SymmetricMaxPooling2D):
        return "symmetric"
    if isinstance(layer, QuantConv2D):
        return layer.get_config()["padding"]
    return layer.padding


def _count(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    if padding == "valid":
        return (size - (kernel - 1) * dilation - 1) // stride + 1
    return -(-size // stride)


def _border(size: int, kernel: int, stride: int, dilation: int, padding: str) -> Border:
    extent = (kernel - 1) * dilation + 1
    reach = (_count(size, kernel, stride, dilation, padding) - 1) * stride + extent
    if padding == "valid":
        before = 0
    elif padding == "same":
        before = max(reach - size, 0) // 2
    elif padding == "causal":
        before = extent - 1
    else:
        before = dilation * (kernel // 2)
    return before, reach - size - before


def upright(x: tf.Tensor, turned: bool) -> tf.Tensor:
    """Turn a tensor back, if it is one of turned images; or turn it, likewise.

    Args:
        x: Any tensor.
        turned: Whether images are turned.
    """
    is_image = x.shape.rank == 4 and tuple(x.shape[1:3]) != (1, 1)
    return turn(x) if turned and is_image else x


def turn(x: tf.Tensor) -> tf.Tensor:
    """Turn images by 180 degrees: reverse the pixels, in one operator.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
    """
    batch, height, width, channels = x.shape
    batch = -1 if batch is None else batch
    flat = tf.reshape(x, [batch, height * width, channels])
    return tf.reshape(tf.reverse(flat, [1]), [batch, height, width, channels])
