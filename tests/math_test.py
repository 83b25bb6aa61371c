import numpy as np
import oracles
import pytest
import tensorflow as tf

from larq_nobn import ops
from larq_nobn.math import (
    adaptive_gradient_clip,
    agc_scale,
    binary_ws_kernel,
    rprelu,
    scaled_weight_standardization,
    sign,
    unitwise_norm,
)

rng = np.random.default_rng(0)

SHAPES = {
    "HWIO": ((3, 3, 4, 5), None),
    "dense": ((7, 5), None),
    "conv1d": ((3, 4, 5), None),
    "depthwise": ((3, 3, 4, 2), (0, 1)),
}


@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("gamma", "eps"), [(1.0, 1e-5), (1.7, 1e-2), (1.0, 0.0)])
def test_standardization_is_the_formula(shape, axis, gamma, eps):
    w = rng.normal(size=shape)
    wanted_axis = tuple(range(len(shape) - 1)) if axis is None else axis
    actual = scaled_weight_standardization(tf.constant(w), gamma, eps, axis)
    expected = oracles.standardize(w, gamma, eps, wanted_axis)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


def test_standardization_gives_unit_variance_outputs():
    """What it is for: signs in, unit variance out, whatever the kernel's scale."""
    kernel = tf.constant(5 + 0.01 * rng.normal(size=(3, 3, 64, 8)))
    kernel = scaled_weight_standardization(kernel)
    signs = tf.sign(tf.constant(rng.normal(size=(16, 12, 12, 64))))
    y = tf.nn.conv2d(signs, kernel, 1, "VALID").numpy()
    np.testing.assert_allclose(y.var((0, 1, 2)), 1.0, rtol=0.15)


@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
def test_standardization_gradient(shape, axis):
    w, dy = rng.normal(size=shape), rng.normal(size=shape)
    x = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = scaled_weight_standardization(x, 1.3, 1e-3, axis)
    wanted_axis = tuple(range(len(shape) - 1)) if axis is None else axis
    expected = oracles.numeric_vjp(
        lambda w: oracles.standardize(w, 1.3, 1e-3, wanted_axis), w, dy
    )
    np.testing.assert_allclose(tape.gradient(y, x, dy), expected, atol=1e-8)


@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_constant_channels_are_zero_with_finite_gradients(dtype, eps):
    w = np.full((3, 3, 2, 3), 0.25)  # Constant, also in half precision.
    w[..., 1] = 0.0
    w[..., 2] = rng.normal(size=(3, 3, 2))
    x = tf.cast(w, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = scaled_weight_standardization(x, eps=eps)
    gradient = tape.gradient(y, x)
    assert y.dtype == gradient.dtype == x.dtype
    y = tf.cast(y, "float64").numpy()
    assert np.all(y[..., :2] == 0)
    assert np.all(y[..., 2] != 0)
    assert np.all(np.isfinite(tf.cast(gradient, "float64")))


def test_standardization_in_half_precision_keeps_signs():
    """A mean that half precision cannot hold must not decide the signs."""
    w = tf.cast(1000 + rng.normal(size=(3, 3, 256, 4)), "float16")
    expected = oracles.standardize(w.numpy().astype("float64"))
    actual = scaled_weight_standardization(w).numpy()
    assert np.array_equal(np.sign(actual), np.sign(expected))


@pytest.mark.parametrize(
    ("shape", "axis", "norm_shape"),
    [
        ((3, 3, 4, 5), (0, 1, 2), (1, 1, 1, 5)),
        ((1, 1, 1, 5), (0, 1, 2), (1, 1, 1, 5)),
        ((3, 4, 5), (0, 1), (1, 1, 5)),
        ((7, 5), (0,), (1, 5)),
        ((5,), (0,), (1,)),
        ((), (), ()),
    ],
)
def test_unitwise_norm(shape, axis, norm_shape):
    """The table of the docstring: per output channel, a vector as a whole."""
    x = rng.normal(size=shape)
    norm = unitwise_norm(tf.constant(x))
    assert norm.shape == norm_shape
    np.testing.assert_allclose(norm, np.sqrt((x**2).sum(axis, keepdims=True)))


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (7, 5), (5,), ()])
@pytest.mark.parametrize("clip_factor", [0.02, 0.5])
def test_clipped_norms_are_at_most_the_factor(shape, clip_factor):
    rng = np.random.default_rng(0)
    p, g = rng.normal(size=shape), 3 + rng.normal(size=shape)
    if shape:
        g[..., 0] = 1e-4 * g[..., 0]  # A unit (or an element) that needs no clipping.
    clipped = adaptive_gradient_clip(tf.constant(g), tf.constant(p), clip_factor, 1e-3)
    limit = clip_factor * np.maximum(unitwise_norm(tf.constant(p)), 1e-3)
    norm, before = unitwise_norm(clipped).numpy(), unitwise_norm(tf.constant(g)).numpy()
    np.testing.assert_allclose(norm, np.minimum(before, limit), rtol=1e-12)
    assert np.any(norm < before)
    # Clipping changes lengths, not directions, and twice is once.
    np.testing.assert_allclose(clipped * (before / norm), g, rtol=1e-12)
    again = adaptive_gradient_clip(clipped, tf.constant(p), clip_factor, 1e-3)
    np.testing.assert_allclose(again, clipped, rtol=1e-12)


def test_zero_parameters_can_move_and_zero_gradients_stay():
    g, zeros = tf.ones([3, 2], tf.float64), tf.zeros([3, 2], tf.float64)
    clipped = adaptive_gradient_clip(g, zeros, clip_factor=0.02, eps=1e-3)
    np.testing.assert_allclose(unitwise_norm(clipped), [[2e-5, 2e-5]], rtol=1e-12)
    assert np.all(adaptive_gradient_clip(zeros, g) == 0)
    assert np.all(adaptive_gradient_clip(zeros, zeros) == 0)


def test_agc_scale_is_one_where_nothing_is_clipped():
    p = tf.ones([4, 2], tf.float64)  # Norm 2 per unit.
    g = tf.constant([[0.1, 0.4]] * 4, tf.float64)  # Norms 0.2 and 0.8.
    scale = agc_scale(g, p, clip_factor=0.2, eps=1e-3)
    np.testing.assert_allclose(scale, [[1.0, 0.5]], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_clipping_in_half_precision_does_not_overflow(dtype):
    """Squares of gradients beyond 256 overflow in float16; norms are float32."""
    g, p = tf.fill([4, 4], tf.cast(3000, dtype)), tf.ones([4, 4], dtype)
    clipped = adaptive_gradient_clip(g, p, clip_factor=0.5)
    assert clipped.dtype == g.dtype
    np.testing.assert_allclose(tf.cast(clipped, "float32"), 0.5, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_signs(dtype):
    x = tf.constant([-np.inf, -1e-30, -0.0, 0.0, 1e-30, np.inf, np.nan], dtype)
    result = sign(x)
    assert result.dtype == dtype
    result = tf.cast(result, tf.float64)
    np.testing.assert_array_equal(result, [-1, -1, 1, 1, 1, 1, np.nan])


def test_half_precision_computes_in_float32():
    """1 + 2^-10 is 1 in bfloat16; less 1 it shows what was kept."""
    x = tf.constant([[1.0]], tf.bfloat16)
    slope = tf.constant([0.25], tf.bfloat16)
    minus = tf.constant([-1.0], tf.bfloat16)
    small = tf.constant([2.0**-10], tf.bfloat16)
    assert float(rprelu(x, small, slope, minus)[0, 0]) == 2.0**-10
    assert rprelu(x, small, slope, minus).dtype == tf.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_binary_kernel_in_half_precision(dtype):
    """Computed in float32, then rounded: the scale is not of rounded weights."""
    rng = np.random.default_rng(0)
    kernel = tf.constant(rng.uniform(0, 1e-3, (3, 3, 8, 6)), "float32")
    gain = tf.constant(rng.normal(size=(1, 1, 1, 6)), "float32")
    for function in (binary_ws_kernel, tf.function(ops.binary_ws_kernel)):
        half = function(kernel, gain, dtype=dtype)
        assert half.dtype == dtype
        expected = tf.cast(binary_ws_kernel(kernel, gain), dtype)
        np.testing.assert_array_equal(
            *(tf.cast(x, "float32").numpy() for x in (half, expected))
        )
