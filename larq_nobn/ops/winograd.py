"""3x3 convolutions with 2.25 times fewer multiplications.

"Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), Section 4.1:
F(2x2, 3x3), whose transforms add, subtract and halve, so that those of signs are exact.
Maps are tiled, 4x4 pixels for 2x2 outputs; position by position of the tiles the
convolution is a matrix product.
"""

import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf

from larq_nobn.ops.fusion import compiled

Tiles = list[tf.Tensor]
"""16 matrices, one per position in a tile, row by row."""


def conv2d(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolve with stride 1 and `"SAME"` padding.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        kernel: Tensor of shape `(3, 3, channels, filters)`.

    Returns:
        Tensor of shape `(batch, height, width, filters)`.
    """
    pairs = zip(_input_tiles(x), _kernel_tiles(kernel), strict=True)
    return _untile([tf.matmul(v, u) for v, u in pairs], *x.shape[1:3])


def input_gradient(dy: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Gradient of `conv2d`'s input: a convolution with the turned kernel.

    Args:
        dy: Gradient of the output, of its shape.
        kernel: As in `conv2d`.

    Returns:
        Tensor of the input's shape.
    """
    tiles = _kernel_tiles(kernel)
    # Turning a kernel swaps the first and the last of its tiles' rows and columns.
    turned = [tiles[4 * i + j] for i, j in itertools.product((3, 1, 2, 0), repeat=2)]
    pairs = zip(_input_tiles(dy), turned, strict=True)
    return _untile(
        [tf.matmul(v, u, transpose_b=True) for v, u in pairs], *dy.shape[1:3]
    )


def kernel_gradient(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """Gradient of `conv2d`'s kernel.

    Args:
        x: As in `conv2d`.
        dy: Gradient of the output, of its shape.

    Returns:
        Tensor of the kernel's shape.
    """
    pairs = zip(_input_tiles(x), _output_gradient_tiles(dy), strict=True)
    return _kernel_tiles_gradient(
        [tf.matmul(v, dm, transpose_a=True) for v, dm in pairs]
    )


def _both_ways(function: Callable[[Sequence], Sequence], rows: Sequence[Sequence]):
    """A transform's function of rows, applied to rows and columns."""
    columns = zip(*[function(row) for row in rows], strict=True)
    return list(zip(*[function(column) for column in columns], strict=True))


def _even(x: tf.Tensor) -> tf.Tensor:
    """Whole tiles, with zeros behind."""
    return tf.pad(x, [[0, 0], *[[0, size % 2] for size in x.shape[1:3]], [0, 0]])


def _input_tiles(x: tf.Tensor) -> Tiles:
    # Pad first: XLA would test for the border at each of a tile's 16 pixels.
    border = [[1, 1 + size % 2] for size in x.shape[1:3]]
    return _tiles(tf.pad(x, [[0, 0], *border, [0, 0]]))


@compiled
def _tiles(x: tf.Tensor) -> Tiles:
    def transform(d):
        return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]

    height, width = (size - 2 for size in x.shape[1:3])
    # Rows first, in one piece: a pass over memory is a loop over rows.
    rows = transform([x[:, i : i + height : 2] for i in range(4)])
    tiles = [
        transform([row[:, :, j : j + width : 2] for j in range(4)]) for row in rows
    ]
    return [tf.reshape(v, [-1, x.shape[-1]]) for v in itertools.chain(*tiles)]


@compiled
def _kernel_tiles(kernel: tf.Tensor) -> Tiles:
    def transform(g):
        outer = g[0] + g[2]
        return g[0], 0.5 * (outer + g[1]), 0.5 * (outer - g[1]), g[2]

    return list(
        itertools.chain(
            *_both_ways(transform, [tf.unstack(g) for g in tf.unstack(kernel)])
        )
    )


@compiled
def _untile(tiles: Tiles, height: int, width: int) -> tf.Tensor:
    def transform(m):
        return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

    filters = tiles[0].shape[-1]
    rows, columns = -(-height // 2), -(-width // 2)
    (a, b), (c, d) = _both_ways(transform, [tiles[i : i + 4] for i in range(0, 16, 4)])
    y = tf.stack([tf.stack([a, b], 1), tf.stack([c, d], 1)], 1)
    y = tf.reshape(y, [-1, rows, columns, 2, 2, filters])
    y = tf.transpose(y, [0, 1, 3, 2, 4, 5])
    return tf.reshape(y, [-1, 2 * rows, 2 * columns, filters])[:, :height, :width]


@compiled
def _output_gradient_tiles(dy: tf.Tensor) -> Tiles:
    def transform(y):
        return y[0], y[0] + y[1], y[0] - y[1], -y[1]

    dy = _even(dy)
    corners = [[dy[:, i::2, j::2] for j in range(2)] for i in range(2)]
    tiles = _both_ways(transform, corners)
    return [tf.reshape(m, [-1, dy.shape[-1]]) for m in itertools.chain(*tiles)]


@compiled
def _kernel_tiles_gradient(tiles: Tiles) -> tf.Tensor:
    def transform(u):
        half = 0.5 * (u[1] + u[2])
        return u[0] + half, 0.5 * (u[1] - u[2]), half + u[3]

    rows = _both_ways(transform, [tiles[i : i + 4] for i in range(0, 16, 4)])
    return tf.stack([tf.stack(row) for row in rows])
