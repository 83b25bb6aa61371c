"""A convolution that suits a CPU."""

import functools
import itertools
from collections.abc import Sequence

import tensorflow as tf

from larq_nobn import math
from larq_nobn.ops import winograd
from larq_nobn.ops.fusion import Recompute
from larq_nobn.ops.seam import first_order, is_fast


def conv2d(
    x: tf.Tensor,
    kernel: tf.Tensor,
    strides: Sequence[int],
    padding: str,
    recompute: Recompute | None = None,
) -> tf.Tensor:
    """`larq_nobn.math.conv2d`, in the way that suits a CPU.

    3x3 convolutions of many channels are computed with fewer multiplications.

    The gradient of a kernel correlates inputs and output gradients over batch and
    positions. In half precision oneDNN's operator for that is slow where maps are small
    and channels many. The same sums are a matrix product for each of the kernel's
    positions.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        kernel: Tensor of shape `(height, width, channels, filters)`.
        strides: In height and width.
        padding: `"SAME"` or `"VALID"`.
        recompute: How to compute `x` again for the kernel's gradient, rather than keep
            it in memory.

    Returns:
        Tensor of shape `(batch, new height, new width, filters)`.
    """
    if not is_fast():
        return math.conv2d(x, kernel, strides, padding)
    steps = [1, *strides, 1]
    is_tiled = padding == "SAME" and set(strides) == {1} and _has_fast_tiles(x, kernel)

    def input_gradient(dy):
        if is_tiled:
            return winograd.input_gradient(dy, kernel)
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x),
            filter=kernel,
            out_backprop=dy,
            strides=steps,
            padding=padding,
        )

    def kernel_gradient(x, dy):
        if is_tiled:
            return winograd.kernel_gradient(x, dy)
        if _is_small(x.shape, kernel.shape, strides, x.dtype):
            return _kernel_gradient(x, dy, kernel.shape[:2], strides, padding)
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x,
            filter_sizes=kernel.shape,
            out_backprop=dy,
            strides=steps,
            padding=padding,
        )

    @first_order
    def call(*_):
        def grad(dy):
            dx = input_gradient(dy)
            # Not before the gradient: TensorFlow would merge what is computed again, or
            # the tiles, with the forward pass's, and keep them from there to here.
            with tf.control_dependencies([dx]):
                return [dx, kernel_gradient(recompute() if recompute else x, dy)]

        if is_tiled:
            return winograd.conv2d(x, kernel), grad
        return tf.nn.conv2d(x, kernel, strides, padding), grad

    return call(x, kernel)


def _has_fast_tiles(x: tf.Tensor, kernel: tf.Tensor) -> bool:
    """Whether `winograd` is faster than TensorFlow's operators.

    Measured with maps of 4x4 to 32x32, on two kinds of processors: from 256 channels on
    the products outweigh the transforms, and with 128 where maps are not small. Half
    precision would round the products before they are added.
    """
    *size, channels, filters = kernel.shape
    if size != [3, 3] or None in x.shape[1:3] or x.dtype.size < 4:
        return False
    narrowest = min(channels, filters)
    return narrowest >= (128 if x.shape[1] * x.shape[2] >= 256 else 256)


def _is_small(
    x_shape: tf.TensorShape,
    kernel_shape: tf.TensorShape,
    strides: Sequence[int],
    dtype: tf.DType,
) -> bool:
    """Whether `_kernel_gradient` is faster than TensorFlow's operator.

    Measured, with batches of 32 to 128: the smaller the maps and the larger the
    kernels, the more; twice for 512 channels of 4x4 in bfloat16.
    """
    height, width, channels, filters = kernel_shape
    if height * width == 1 or None in x_shape[1:3]:
        return False
    if dtype.size >= 4 or not multiplies_in_float32(dtype):
        return False
    positions = (x_shape[1] // strides[0]) * (x_shape[2] // strides[1])
    return positions <= max(64, channels * filters // 2**10)


@functools.cache
def multiplies_in_float32(dtype: tf.DType) -> bool:
    """Whether matrix products of half precision add up in float32 on this machine."""
    with tf.init_scope():
        # float16, which cannot hold the sum, never passes.
        ones = tf.ones((1, 2**17), dtype)
        total = tf.matmul(ones, tf.ones((2**17, 8), dtype))
        return bool(tf.reduce_all(tf.cast(total, tf.float32) == 2.0**17))


def _kernel_gradient(
    x: tf.Tensor,
    dy: tf.Tensor,
    size: Sequence[int],
    strides: Sequence[int],
    padding: str,
) -> tf.Tensor:
    borders = [
        _border(*lengths, padding)
        for lengths in zip(x.shape[1:3], size, strides, strict=True)
    ]
    x = tf.pad(x, [[0, 0], *borders, [0, 0]])
    # The range of input pixels that one kernel position reads.
    rows, columns = (
        stride * (length - 1) + 1
        for stride, length in zip(strides, dy.shape[1:3], strict=True)
    )
    dy = tf.reshape(dy, [-1, dy.shape[-1]])
    products = []
    for i, j in itertools.product(*map(range, size)):
        seen = x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        seen = tf.reshape(seen, [-1, x.shape[-1]])
        products.append(tf.matmul(seen, dy, transpose_a=True))
    return tf.reshape(tf.stack(products), [*size, x.shape[-1], dy.shape[-1]])


def _border(length: int, size: int, stride: int, padding: str) -> list[int]:
    """Zeros in front of and behind a row of the input."""
    if padding == "VALID":
        return [0, 0]
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return [total // 2, total - total // 2]
