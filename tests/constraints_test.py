import inspect

import larq as lq
import numpy as np
import oracles
import pytest
import tensorflow as tf

from larq_nobn.constraints import ScaledWeightStandardization
from larq_nobn.layers import ScaledWSConv2D

rng = np.random.default_rng(0)


def test_projects_onto_standardized_kernels():
    w = rng.normal(size=(3, 3, 4, 5))
    constraint = ScaledWeightStandardization(gamma=1.3, eps=1e-2)
    expected = oracles.standardize(w, 1.3, 1e-2)
    np.testing.assert_allclose(constraint(tf.constant(w)), expected, rtol=1e-12)


def test_projection_is_idempotent():
    w = tf.constant(rng.normal(size=(3, 3, 4, 5)))
    once = ScaledWeightStandardization(eps=0.0)(w)
    np.testing.assert_allclose(ScaledWeightStandardization(eps=0.0)(once), once)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        lq.layers.QuantDense(3, kernel_constraint="scaled_ws"),
        tf.keras.layers.Dense(3, kernel_constraint="ScaledWeightStandardization"),
        lq.layers.QuantConv2D(3, 3, kernel_constraint=ScaledWeightStandardization()),
        tf.keras.layers.Conv1D(3, 3, kernel_constraint="scaled_ws"),
        lq.layers.QuantDepthwiseConv2D(
            3, depthwise_constraint=ScaledWeightStandardization(axis=(0, 1))
        ),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_holds_after_every_update(layer):
    shape = {"Conv1D": (8, 4)}.get(type(layer).__name__, (8, 8, 4))
    model = tf.keras.Sequential(
        [tf.keras.Input(shape), layer, tf.keras.layers.Flatten()]
    )
    model.compile("sgd", "mse")
    x = rng.normal(size=(4, *shape))
    model.fit(x, np.zeros((4, model.output_shape[1])), verbose=0)
    kernel = layer.weights[0].numpy()
    depthwise = "Depthwise" in type(layer).__name__
    axis = (0, 1) if depthwise else tuple(range(kernel.ndim - 1))
    fan_in = np.prod([kernel.shape[i] for i in axis])
    np.testing.assert_allclose(kernel.mean(axis), 0, atol=1e-6)
    np.testing.assert_allclose(kernel.std(axis) * fan_in**0.5, 1, rtol=1e-3)


def test_equals_the_layer_in_the_forward_pass():
    """Constraint and layer are the same function of the same kernel."""
    kernel = rng.normal(size=(3, 3, 4, 5)).astype("float32")
    x = rng.normal(size=(2, 8, 8, 4)).astype("float32")
    ours, keras = ScaledWSConv2D(5, 3), tf.keras.layers.Conv2D(5, 3, use_bias=False)
    ours.build(x.shape)
    keras.build(x.shape)
    ours.set_weights([kernel, np.ones((1, 1, 1, 5))])
    keras.set_weights([ScaledWeightStandardization()(kernel)])
    np.testing.assert_allclose(ours(x), keras(x), rtol=1e-5, atol=1e-5)


def test_config_covers_the_constructor():
    constraint = ScaledWeightStandardization(gamma=2.0, eps=1e-3, axis=(0, 1))
    config = constraint.get_config()
    arguments = {*inspect.signature(ScaledWeightStandardization.__init__).parameters}
    assert arguments - {"self"} == {*config}
    again = tf.keras.constraints.deserialize(tf.keras.constraints.serialize(constraint))
    assert again.get_config() == config == {"gamma": 2.0, "eps": 1e-3, "axis": [0, 1]}


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_gamma_must_be_positive(gamma):
    with pytest.raises(ValueError, match=r"`gamma` must be a positive .* use 1\.0"):
        ScaledWeightStandardization(gamma=gamma)
    with pytest.raises(ValueError, match=r"`gamma` must be a positive .* use 1\.0"):
        ScaledWSConv2D(3, 3, gamma=gamma)


def test_eps_must_not_be_negative():
    with pytest.raises(ValueError, match=r"`eps` must be a number, 0 or more"):
        ScaledWeightStandardization(eps=-1e-5)
    with pytest.raises(ValueError, match=r"`eps` must be a number, 0 or more"):
        ScaledWSConv2D(3, 3, eps=-1e-5)
