"""`conv2d` is TensorFlow's, with another way to the kernel's gradient."""

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import layers
from larq_nobn._convolution import conv2d, is_worthwhile
from larq_nobn._fusion import for_accelerators


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
    ours = gradients(lambda x, k: conv2d(x, k, strides, padding), x, kernel, weights)
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def shapes(size, channels):
    return (None, size, size, channels), (3, 3, channels, channels)


def test_where_it_is_worthwhile():
    def worthwhile(size, channels, dtype, kernel=None):
        x, default = map(tf.TensorShape, shapes(size, channels))
        return is_worthwhile(x, tf.TensorShape(kernel or default), (1, 1), dtype)

    assert worthwhile(4, 512, tf.float32)
    assert not worthwhile(8, 256, tf.float32)
    assert worthwhile(8, 256, tf.bfloat16)
    assert not worthwhile(32, 64, tf.bfloat16)
    assert not worthwhile(None, 512, tf.bfloat16)
    assert not worthwhile(4, 512, tf.float32, (1, 1, 512, 512))
    with for_accelerators():
        assert not worthwhile(4, 512, tf.float32)
    assert worthwhile(4, 512, tf.float32)


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
    assert any(op.type == "Transpose" for op in ours.graph.get_operations())
    with for_accelerators():
        theirs = step.python_function
        theirs = tf.function(theirs, input_signature=step.input_signature)
        theirs = theirs.get_concrete_function()
    assert not any(op.type == "Transpose" for op in theirs.graph.get_operations())
    for a, b in zip(ours(x), theirs(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
