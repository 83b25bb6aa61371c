"""`conv2d` is TensorFlow's, with other ways to the gradients."""

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import layers, ops
from larq_nobn.ops.convolution import (
    _is_small,
    _kernel_gradient,
    conv2d,
    multiplies_in_float32,
)


def gradients(function, x, kernel, weights):
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = function(x, kernel)
        loss = tf.reduce_sum(y * weights)
    return y, tape.gradient(loss, [x, kernel])


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize(
    ("size", "kernel_size"), [((8, 8), (3, 3)), ((7, 9), (3, 5)), ((5, 6), (2, 1))]
)
def test_gradients_are_tensorflows(size, kernel_size, strides, padding):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((3, *size, 4)))
    kernel = tf.constant(rng.standard_normal((*kernel_size, 4, 6)))
    expected = tf.nn.conv2d(x, kernel, strides, padding)
    weights = tf.constant(rng.standard_normal(expected.shape))
    theirs = gradients(
        lambda x, k: tf.nn.conv2d(x, k, strides, padding), x, kernel, weights
    )
    ours = tf.function(gradients)(
        lambda x, k: conv2d(x, k, strides, padding), x, kernel, weights
    )
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    products = _kernel_gradient(x, weights, kernel_size, strides, padding)
    np.testing.assert_allclose(products, theirs[1][1], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, None])
@pytest.mark.parametrize("size", [(4, 4), (5, 6), (2, 7), (1, 1)])
def test_fewer_multiplications(size, batch):
    """The same results in graphs, from products of tiles, also of odd maps."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((2, *size, 256)))
    kernel = tf.constant(rng.standard_normal((3, 3, 256, 258)))
    weights = tf.constant(rng.standard_normal((2, *size, 258)))

    @tf.function(input_signature=[tf.TensorSpec((batch, *size, 256), tf.float64)])
    def step(x):
        return gradients(lambda x, k: conv2d(x, k, (1, 1), "SAME"), x, kernel, weights)

    types = [op.type for op in step.get_concrete_function().graph.get_operations()]
    assert types.count("MatMul") == 48
    assert not any(name.startswith("Conv2D") for name in types)
    theirs = gradients(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), x, kernel, weights)
    for a, b in zip(*map(tf.nest.flatten, (step(x), theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_tiles_of_signs_are_exact():
    """Integers, and multiples of 1/4: sums of a binary convolution have no rounding."""
    rng = np.random.default_rng(0)
    x, kernel = (
        tf.constant(rng.choice([-1.0, 1.0], shape), "float32")
        for shape in ((2, 16, 16, 256), (3, 3, 256, 128))
    )
    result = tf.function(conv2d)(x, kernel, (1, 1), "SAME")
    np.testing.assert_array_equal(result, tf.nn.conv2d(x, kernel, 1, "SAME"))
    np.testing.assert_array_equal(result, np.round(result))


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "strides", "padding", "dtype"),
    [
        ((2, 4, 4, 256), (3, 3, 256, 256), (1, 1), "VALID", "float32"),
        ((2, 4, 4, 256), (3, 3, 256, 256), (2, 2), "SAME", "float32"),
        ((2, 4, 4, 256), (5, 5, 256, 256), (1, 1), "SAME", "float32"),
        ((2, 16, 16, 64), (3, 3, 64, 256), (1, 1), "SAME", "float32"),
        ((2, None, 4, 256), (3, 3, 256, 256), (1, 1), "SAME", "float32"),
        ((2, 4, 4, 256), (3, 3, 256, 256), (1, 1), "SAME", "bfloat16"),
        ((2, 15, 17, 128), (3, 3, 128, 256), (1, 1), "SAME", "float32"),
    ],
)
def test_other_convolutions_are_tensorflows(
    shape, kernel_shape, strides, padding, dtype
):
    specs = [tf.TensorSpec(s, dtype) for s in (shape, kernel_shape)]
    step = tf.function(lambda x, k: conv2d(x, k, strides, padding))
    graph = step.get_concrete_function(*specs).graph
    assert [op.type for op in graph.get_operations()].count("Conv2D") == 1


def test_where_the_kernels_gradient_is_products():
    def is_small(size, channels, dtype, kernel_size=3):
        x = tf.TensorShape((None, size, size, channels))
        kernel = tf.TensorShape((kernel_size, kernel_size, channels, channels))
        return _is_small(x, kernel, (1, 1), dtype)

    assert is_small(8, 256, tf.bfloat16) == multiplies_in_float32(tf.bfloat16)
    assert not is_small(32, 64, tf.bfloat16)
    assert not is_small(None, 512, tf.bfloat16)
    assert not is_small(4, 512, tf.bfloat16, kernel_size=1)
    assert not is_small(4, 512, tf.float16)
    assert not is_small(4, 512, tf.float32)


@pytest.mark.parametrize("strides", [1, 2])
def test_kernels_gradient_in_half_precision(strides):
    """Of whole numbers it is exact either way."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.choice([-1, 1], (4, 8, 8, 16)), tf.bfloat16)
    kernel = tf.constant(rng.choice([-1, 1], (3, 3, 16, 24)), tf.bfloat16)
    size = 8 // strides
    weights = tf.constant(rng.integers(-1, 2, (4, size, size, 24)), tf.bfloat16)
    (_, ours), (_, theirs) = (
        tf.function(gradients)(
            lambda *xs, convolve=convolve: convolve(*xs, (strides, strides), "SAME"),
            *(tf.cast(v, dtype) for v in (x, kernel, weights)),
        )
        for convolve, dtype in ((conv2d, tf.bfloat16), (tf.nn.conv2d, tf.float32))
    )
    np.testing.assert_array_equal(tf.cast(ours[1], tf.float32), theirs[1])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("name", ["QuantConv2D", "ScaledWSConv2D"])
def test_layers_give_the_same_either_way(name, strides):
    """With symmetric padding, a binary kernel and unknown batch size."""
    layer = getattr(layers, name)(
        256,
        3,
        strides=strides,
        padding="symmetric",
        input_quantizer="approx_sign",
        kernel_quantizer="scaled_sign",
    )
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((2, 2, 2, 256)))
    layer.build(x.shape)

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 2, 256), tf.float64)])
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(x, training=True)))
        return tape.gradient(loss, layer.trainable_variables)

    ours = step.get_concrete_function()
    has_products = any(op.type == "MatMul" for op in ours.graph.get_operations())
    assert has_products == (strides == 1)
    with ops.using("accelerator"):
        theirs = step.python_function
        theirs = tf.function(theirs, input_signature=step.input_signature)
        theirs = theirs.get_concrete_function()
    assert not any(op.type == "MatMul" for op in theirs.graph.get_operations())
    for a, b in zip(ours(x), theirs(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
