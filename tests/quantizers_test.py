import inspect
import itertools

import larq as lq
import numpy as np
import oracles
import pytest
import tensorflow as tf

from larq_nobn.layers import QuantConv2D, ScaledWSConv2D
from larq_nobn.models import FusedModel
from larq_nobn.quantizers import (
    FusedApproxSign,
    ScaledSign,
    SigmoidSign,
    scaled_sign,
    sigmoid_sign,
)

rng = np.random.default_rng(0)


def _value_and_gradient(f, x, dy):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return y.numpy(), tape.gradient(y, x, dy).numpy()


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (7, 5), (5,)])
@pytest.mark.parametrize("clip_value", [1.0, 0.5, None])
def test_scaled_sign(shape, clip_value):
    w, dy = rng.normal(size=shape), rng.normal(size=shape)
    y, gradient = _value_and_gradient(lambda x: scaled_sign(x, clip_value), w, dy)
    scale = np.abs(w).mean(tuple(range(len(shape) - 1)), keepdims=True)
    np.testing.assert_allclose(y, scale * np.sign(w), rtol=1e-14)
    # Straight through, with factor 1: no scale, and nothing through the scale.
    passes = np.abs(w) <= (np.inf if clip_value is None else clip_value)
    np.testing.assert_array_equal(gradient, np.where(passes, dy, 0.0))


def test_scaled_sign_at_the_edges():
    w = np.array([-1.0, 1.0, 0.0, 1.5])[:, None]
    y, gradient = _value_and_gradient(scaled_sign, w, np.ones_like(w))
    np.testing.assert_allclose(y[:, 0], 0.875 * np.array([-1, 1, 1, 1]))
    np.testing.assert_array_equal(gradient[:, 0], [1, 1, 1, 0])


def test_scaled_sign_is_exactly_binary_per_channel():
    """Converters recognize a binary kernel by exactly this."""
    w = tf.constant(rng.normal(size=(3, 3, 16, 8)), tf.float32)
    magnitudes = np.abs(scaled_sign(w).numpy()).reshape(-1, 8)
    assert np.all(magnitudes == magnitudes[0])


def test_scaled_sign_is_not_magnitude_aware_sign():
    """Same values as Larq's, another gradient: that is why it exists."""
    w, dy = rng.normal(size=(3, 3, 4, 5)), np.ones((3, 3, 4, 5))
    ours = _value_and_gradient(ScaledSign(dtype="float64"), w, dy)
    larqs = _value_and_gradient(
        lq.quantizers.MagnitudeAwareSign(dtype="float64"), w, dy
    )
    np.testing.assert_allclose(ours[0], larqs[0])
    scale = np.abs(w).mean((0, 1, 2))
    np.testing.assert_allclose(ours[1] * scale, larqs[1])


@pytest.mark.parametrize("slope", [3.0, 1.0, 5.5])
def test_sigmoid_sign(slope):
    x, dy = np.linspace(-3, 3, 61), rng.normal(size=61)
    y, gradient = _value_and_gradient(lambda x: sigmoid_sign(x, slope), x, dy)
    np.testing.assert_array_equal(y, oracles.sign(x))
    # The pseudo-gradient is the derivative of 2 * sigmoid(kx) - 1.
    expected = oracles.numeric_vjp(lambda x: 2 / (1 + np.exp(-slope * x)), x, dy)
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


@pytest.mark.parametrize("f", [scaled_sign, sigmoid_sign])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype(f, dtype):
    x = tf.cast(rng.normal(size=(4, 4)), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    gradient = tape.gradient(y, x)
    assert y.dtype == gradient.dtype == x.dtype
    assert np.all(np.isfinite(tf.cast(gradient, "float32")))


OBJECTS = {"scaled_sign": ScaledSign(0.5), "sigmoid_sign": SigmoidSign(2.0)}


@pytest.mark.parametrize("alias", OBJECTS)
def test_config_covers_the_constructor(alias):
    quantizer = OBJECTS[alias]
    config = quantizer.get_config()
    arguments = {*inspect.signature(type(quantizer).__init__).parameters}
    assert arguments - {"self", "kwargs"} <= {*config}
    again = type(quantizer).from_config(config)
    assert again.get_config() == config


@pytest.mark.parametrize("alias", OBJECTS)
def test_by_string_class_name_and_config(alias):
    cls = type(OBJECTS[alias])
    assert type(lq.quantizers.get(alias)) is cls
    assert type(lq.quantizers.get(cls.__name__)) is cls
    again = lq.quantizers.get(lq.quantizers.serialize(OBJECTS[alias]))
    assert again.get_config() == OBJECTS[alias].get_config()


@pytest.mark.parametrize("alias", OBJECTS)
def test_larq_counts_one_bit(alias):
    layer = lq.layers.QuantDense(
        4,
        input_quantizer=alias,
        kernel_quantizer=alias,
        kernel_constraint="weight_clip",
    )
    model = tf.keras.Sequential([tf.keras.Input([8]), layer])
    profile = lq.models.ModelProfile(model)
    assert profile.op_count("mac", 1) == 32
    assert profile.weight_count(bitwidth=1) == 32


@pytest.mark.parametrize("clip_value", [0, -1.0, float("nan")])
def test_scaled_sign_needs_a_positive_clip_value(clip_value):
    with pytest.raises(ValueError, match=r"`clip_value` must be a positive .* 1\.0 is"):
        ScaledSign(clip_value)


@pytest.mark.parametrize("slope", [0, -3.0])
def test_sigmoid_sign_needs_a_positive_slope(slope):
    with pytest.raises(ValueError, match=r"`slope` must be a positive .* 3\.0 is A&B"):
        SigmoidSign(slope)


# --- Larq's metrics -------------------------------------------------------------------


@pytest.mark.parametrize("layer", [QuantConv2D, ScaledWSConv2D, lq.layers.QuantConv2D])
@pytest.mark.parametrize("cls", [ScaledSign, SigmoidSign, FusedApproxSign])
def test_flip_ratio(layer, cls):
    """The mean over steps of the fraction of signs that have changed."""
    layer = layer(
        2,
        3,
        kernel_quantizer=cls(metrics=["flip_ratio"]),
        kernel_constraint="weight_clip",
    )
    x = tf.ones((1, 4, 4, 3))
    train = tf.function(lambda: layer(x, training=True))
    layer.build(x.shape)
    signs = []
    for _ in range(4):
        layer.kernel.assign(rng.normal(size=layer.kernel.shape))
        train()
        kernel = layer.kernel.numpy()
        if isinstance(layer, ScaledWSConv2D):
            kernel = kernel - kernel.mean((0, 1, 2))
        signs.append(kernel >= 0)
    expected = np.mean([np.mean(a != b) for a, b in itertools.pairwise(signs)])
    measured = layer.kernel_quantizer.flip_ratio.result()
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_metrics_scope():
    with lq.context.metrics_scope(["flip_ratio"]):
        x = image = tf.keras.Input((8, 8, 3))
        for quantizer in ("approx_sign", FusedApproxSign()):
            x = ScaledWSConv2D(
                4, 3, input_quantizer=quantizer, kernel_quantizer="scaled_sign"
            )(x)
    model = FusedModel(image, tf.keras.layers.GlobalAveragePooling2D()(x))
    model.compile("sgd", "mse")
    history = model.fit(rng.normal(size=(4, 8, 8, 3)), np.zeros((4, 4)), verbose=0)
    assert len([name for name in history.history if "flip_ratio" in name]) == 2
