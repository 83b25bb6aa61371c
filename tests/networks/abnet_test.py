"""What is A&B BNN's own; its arithmetic is compared in `fidelity_test.py`."""

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import UserError, zoo
from larq_nobn.layers import RPReLU, Scale
from larq_nobn.math import round_straight_through


def test_round_straight_through():
    x = tf.constant([-2.5, -0.6, 0.4, 0.5, 1.5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = round_straight_through(x)
    np.testing.assert_array_equal(y, [-2, -1, 0, 0, 2])
    gradient = tape.gradient(y, x, output_gradients=tf.range(5.0))
    np.testing.assert_array_equal(gradient, np.arange(5))


def test_slopes_are_powers_of_two():
    layer = RPReLU(power_of_two=True)
    layer.build((None, 3))
    np.testing.assert_array_equal(layer.negative_slope, [1 / 8] * 3)
    layer.slope.assign([-1.4, 0.6, -3.5])
    np.testing.assert_array_equal(layer.negative_slope, [1 / 2, 2, 1 / 16])
    np.testing.assert_allclose(layer(tf.constant([[-4.0, -4, 4]])), [[-2, -8, 4]])


def test_slopes_are_trained_through_the_rounding():
    layer = RPReLU(power_of_two=True)
    layer.build((None, 1))
    layer.slope.assign([-1.4])
    with tf.GradientTape() as tape:
        y = layer(tf.constant([[-4.0]]))
    # dy/dL = x · ln 2 · 2^round(L)
    gradient = tape.gradient(y, layer.slope)
    np.testing.assert_allclose(gradient, [-4 * np.log(2) / 2], rtol=1e-6)


def test_config():
    layer = RPReLU.from_config(RPReLU(power_of_two=True).get_config())
    assert layer.power_of_two
    layer.build((None, 2))
    np.testing.assert_array_equal(layer.slope, [-3, -3])
    assert RPReLU().get_config()["power_of_two"] is False


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_only_without_batch_norm(norm):
    with pytest.raises(UserError, match="`norm` must be one of 'free'"):
        zoo.create_model("abnet18", norm=norm)


def test_shortcuts_start_in_front_of_the_scale():
    """So that β, positive and followed by a sign, can be left out at inference."""
    model = zoo.create_model("abnet18", stem="cifar", num_classes=10, width=8)
    scales = [layer for layer in model.layers if isinstance(layer, Scale)]
    assert len(scales) == 11
    for layer in scales:
        consumers = [node.outbound_layer.name for node in layer.outbound_nodes]
        assert [name.rsplit("_", 1)[1] for name in consumers] == ["shift"]
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("f4")
    before = model(images)
    for layer in scales:
        layer.factor *= 4
    assert np.all(model(images) == before)
