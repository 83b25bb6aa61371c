"""A convolution whose kernel gradient suits a CPU."""

from collections.abc import Sequence

import tensorflow as tf

from larq_nobn import _fusion


def is_worthwhile(
    x_shape: tf.TensorShape,
    kernel_shape: tf.TensorShape,
    strides: Sequence[int],
    dtype: tf.DType,
) -> bool:
    """Whether `conv2d` is faster than TensorFlow's own here.

    Measured, with batches of 32 to 256: the smaller the maps and the larger the
    kernels, the more; 3.4 times for 1024 channels of 7x7 in bfloat16.

    Args:
        x_shape: `(batch, height, width, channels)`.
        kernel_shape: `(height, width, channels, filters)`.
        strides: In height and width.
        dtype: Of both.

    Returns:
        `True` if the kernel's gradient is to be a convolution.
    """
    if _fusion.is_for_accelerators() or tf.config.list_physical_devices("GPU"):
        return False
    height, width, channels, filters = kernel_shape
    if height * width == 1 or None in x_shape[1:3]:
        return False
    positions = (x_shape[1] // strides[0]) * (x_shape[2] // strides[1])
    if dtype.size < 4:
        return positions <= max(64, channels * filters // 2**10)
    return positions <= channels * filters // 2**14


def conv2d(
    x: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], padding: str
) -> tf.Tensor:
    """Convolve as `tf.nn.conv2d`; the kernel's gradient is a convolution too.

    The gradient of a kernel correlates inputs and output gradients over batch and
    positions. oneDNN's operator for that is slow where maps are small and channels
    many. The same sums are a convolution of the inputs, channels as images and images
    as channels, with the output gradients as the kernel, which is as fast as any.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        kernel: Tensor of shape `(height, width, channels, filters)`.
        strides: In height and width.
        padding: `"SAME"` or `"VALID"`.

    Returns:
        Tensor of shape `(batch, new height, new width, filters)`.
    """
    steps = [1, *strides, 1]
    size = kernel.shape[:2]

    @tf.custom_gradient
    def _call(x, kernel):
        def grad(dy):
            dx = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=dy,
                strides=steps,
                padding=padding,
            )
            borders = [
                _border(*lengths, padding)
                for lengths in zip(x.shape[1:3], size, strides, strict=True)
            ]
            dkernel = tf.nn.conv2d(
                tf.transpose(x, [3, 1, 2, 0]),
                tf.transpose(dy, [1, 2, 0, 3]),
                1,
                [[0, 0], *borders, [0, 0]],
                dilations=strides,
            )
            # Strides that leave pixels over give shifts that the kernel does not have.
            dkernel = dkernel[:, : size[0], : size[1]]
            return dx, tf.transpose(dkernel, [1, 2, 0, 3])

        return tf.nn.conv2d(x, kernel, strides, padding), grad

    return _call(x, kernel)


def _border(length: int, size: int, stride: int, padding: str) -> list[int]:
    """Zeros in front of and behind a row of the input."""
    if padding == "VALID":
        return [0, 0]
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return [total // 2, total - total // 2]
