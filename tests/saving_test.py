"""Loading models; the optimizers' state is in `optimizers_test.py`."""

import zipfile

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import UserError
from larq_nobn.optimizers import AdaptiveGradientClipping
from larq_nobn.saving import load_model

rng = np.random.default_rng(0)
FORMATS = ("m.keras", "m.h5", "m")


def _model() -> tf.keras.Model:
    return tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(3)])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_loads_weights_and_compilation(name, as_path, tmp_path):
    model = _model()
    model.compile(AdaptiveGradientClipping("adam", 0.5), "mse", metrics=["mae"])
    model.save(tmp_path / name)
    loaded = load_model(as_path(tmp_path / name))
    x = rng.normal(size=(2, 4))
    np.testing.assert_allclose(loaded(x), model(x))
    loaded.run_eagerly = model.run_eagerly = True
    evaluate = {"x": x, "y": np.ones((2, 3)), "verbose": 0}
    np.testing.assert_allclose(loaded.evaluate(**evaluate), model.evaluate(**evaluate))
    assert loaded.optimizer.clip_factor == 0.5
    not_compiled = load_model(as_path(tmp_path / name), compile=False)
    with pytest.raises(RuntimeError, match="You must compile your model"):
        not_compiled.evaluate(**evaluate)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("optimizer", [None, "legacy"])
def test_models_without_a_new_optimizer(name, optimizer, tmp_path):
    """Not compiled, or with an optimizer of Keras's older kind."""
    model = _model()
    if optimizer:
        model.compile(tf.keras.optimizers.legacy.Adam(), "mse", run_eagerly=True)
        model.train_on_batch(np.ones((2, 4)), np.ones((2, 3)))
    model.save(tmp_path / name)
    np.testing.assert_allclose(
        load_model(tmp_path / name)(np.ones((2, 4))), model(np.ones((2, 4)))
    )


def test_missing_files(tmp_path):
    with pytest.raises(
        UserError, match=r"nowhere.keras, which does not exist. Fix: ch"
    ):
        load_model(tmp_path / "nowhere.keras")


def _text(path):
    path.write_text("not a model")


def _other_archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")


def _half_a_model(path):
    _model().save(path)
    path.write_bytes(path.read_bytes()[:1000])


def _weights_only(path):
    _model().save_weights(path)


def _other_saved_model(path):
    module = tf.Module()
    module.variable = tf.Variable(1.0)
    tf.saved_model.save(module, str(path))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("text.keras", _text),
        ("text.h5", _text),
        ("text", _text),
        ("archive.keras", _other_archive),
        ("half.keras", _half_a_model),
        ("half.h5", _half_a_model),
        ("some.weights.h5", _weights_only),
        ("weights.h5", _weights_only),
        ("empty", lambda path: path.mkdir()),
        ("module", _other_saved_model),
    ],
)
def test_unreadable_files(name, write, tmp_path):
    write(tmp_path / name)
    message = (
        rf"`path` must be a saved model.*{name}, which Keras cannot read: .*Fix: sa"
    )
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / name)
