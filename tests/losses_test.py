import inspect

import numpy as np
import oracles
import pytest
import tensorflow as tf

from larq_nobn.losses import DistributionLoss, distribution_loss

rng = np.random.default_rng(0)


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _oracle(teacher, student):
    return -(_softmax(teacher) * np.log(_softmax(student))).sum(-1)


teacher, student = rng.normal(size=(2, 6, 11)) * 3


def test_formula_and_gradient():
    x = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = distribution_loss(tf.constant(teacher), x)
    np.testing.assert_allclose(loss, _oracle(teacher, student), rtol=1e-12)
    dy = rng.normal(size=6)
    expected = oracles.numeric_vjp(lambda s: _oracle(teacher, s), student, dy)
    np.testing.assert_allclose(tape.gradient(loss, x, dy), expected, atol=1e-8)


def test_probabilities():
    """From probabilities, too: what models with a softmax give."""
    loss = DistributionLoss(from_logits=False)(_softmax(teacher), _softmax(student))
    np.testing.assert_allclose(loss, _oracle(teacher, student).mean(), rtol=1e-6)
    zero = DistributionLoss(from_logits=False)([[1.0, 0.0]], [[0.0, 1.0]])
    assert np.isfinite(zero)


def test_is_smallest_at_the_teacher():
    at_teacher = DistributionLoss()(teacher, teacher)
    assert at_teacher < DistributionLoss()(teacher, student)
    entropy = -(_softmax(teacher) * np.log(_softmax(teacher))).sum(-1).mean()
    np.testing.assert_allclose(at_teacher, entropy, rtol=1e-6)


def test_equals_keras_on_hard_labels():
    labels = rng.integers(0, 11, 6)
    hard = 1000.0 * np.eye(11)[labels]
    keras = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(
        DistributionLoss()(hard, student), keras(labels, student), rtol=1e-6
    )


def test_reduction_and_sample_weight():
    per_sample = DistributionLoss(reduction="none")(teacher, student)
    np.testing.assert_allclose(per_sample, _oracle(teacher, student), rtol=1e-6)
    weight = np.array([1.0, 0, 0, 0, 0, 0])
    weighted = DistributionLoss(reduction="sum")(teacher, student, weight)
    np.testing.assert_allclose(weighted, _oracle(teacher, student)[0], rtol=1e-6)


def test_half_precision_student():
    logits = tf.cast(student, "float16")
    assert np.isfinite(DistributionLoss()(teacher, logits))


def test_compile_fit_save_and_load(tmp_path):
    model = tf.keras.Sequential([tf.keras.Input([4]), tf.keras.layers.Dense(11)])
    model.compile("sgd", DistributionLoss(from_logits=True))
    x = rng.normal(size=(6, 4))
    losses = model.fit(x, teacher, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    expected = model.evaluate(x, teacher, verbose=0)
    for name in ("m.keras", "m.h5", "m"):
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)
        assert isinstance(loaded.loss, DistributionLoss)
        np.testing.assert_allclose(loaded.evaluate(x, teacher, verbose=0), expected)


def test_config_covers_the_constructor():
    loss = DistributionLoss(from_logits=False, reduction="sum", name="kd")
    config = loss.get_config()
    arguments = {*inspect.signature(DistributionLoss.__init__).parameters} - {"self"}
    assert arguments == {*config}
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert again.get_config() == config


@pytest.mark.parametrize("shape", [(6, 10), (6,), (6, 11, 1)])
def test_shapes_must_agree(shape):
    """Sparse labels, the usual mistake, included."""
    with pytest.raises(
        ValueError, match=r"must both have the shape .*Fix: use a teach"
    ):
        DistributionLoss()(np.zeros(shape), student)
