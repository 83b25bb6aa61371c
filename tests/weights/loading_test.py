"""What `weights=` reads from files, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf
from small import assert_same_weights, randomized

from larq_nobn import UserError, zoo

rng = np.random.default_rng(0)


def _images(*shape):
    return rng.normal(size=shape).astype("float32")


WEIGHTS_FILES = ("m.keras", "m.h5", "m", "w.weights.h5", "w.h5")


def _save(model, path):
    (model.save_weights if path.name.startswith("w") else model.save)(path)
    return path


@pytest.mark.parametrize("file", WEIGHTS_FILES)
def test_weights_from_a_path(tiny, file, tmp_path):
    """Saved weights and models, compiled and trained ones included."""
    kwargs = {"name": "one_unit" if file == "m" else "tiny", "norm": "batch"}
    model = randomized(tiny(**kwargs))
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    model.train_on_batch(_images(2, 8, 8, 3), np.ones((2, 3)))
    path = _save(model, tmp_path / file)
    assert_same_weights(tiny(**kwargs, weights=path), model)
    # For another step, another size of images.
    other = {"binary_weights": False, "input_shape": (16, 16, 3)}
    assert_same_weights(tiny(**kwargs, **other, weights=str(path)), model)


_MISFITS = {
    "classes": ({"num_classes": 5}, "of another shape: classifier/kernel"),
    "no top": ({"include_top": False}, "2 unexpected: classifier/"),
    "width": ({"width": 8}, "of another shape: stem/kernel"),
    "stem": (
        {"stem": "imagenet", "input_shape": (32, 32, 3)},
        "of another shape: stem",
    ),
    "norm": ({"norm": "none"}, "unexpected: .*/gain"),
    "batch norm": ({"norm": "batch"}, "missing: .*_bn/.*; .*unexpected: .*/gain"),
    "network": ({"name": "tiny_a"}, "missing: .*block1.*unexpected: stage1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["m.keras", "m.h5", "w.h5"])
@pytest.mark.parametrize(("other", "problem"), _MISFITS.values(), ids=_MISFITS)
def test_weights_that_do_not_fit(tiny, file, other, problem, tmp_path):
    """Both sides of the mismatch are reported."""
    path = _save(tiny("one_unit"), tmp_path / file)
    message = f"must have exactly the model's .*{problem}.*Fix: build the model with"
    with pytest.raises(UserError, match=message):
        tiny(**{"name": "one_unit", **other}, weights=path)


@pytest.mark.slow
@pytest.mark.parametrize(("other", "problem"), _MISFITS.values(), ids=_MISFITS)
def test_nameless_weights_that_do_not_fit(tiny, other, problem, tmp_path):
    """Files without the layers' names: Keras would load some of these, in part."""
    path = _save(tiny(), tmp_path / "w.weights.h5")
    with pytest.raises(
        UserError, match=r"do not fit the model .*Received: .*Fix: build"
    ):
        tiny(weights=path, **other)


def test_missing_weights_files(tiny, tmp_path):
    for weights in (tmp_path / "nowhere", "nowhere.h5"):
        message = r"must be an existing file or folder.*nowhere.*Fix: check the path"
        with pytest.raises(UserError, match=message):
            tiny(weights=weights)


def _damaged(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\nnothing")


def _other_saved_model(path):
    tf.saved_model.save(tf.Module(), str(path))


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("text.h5", lambda path: path.write_text("no weights")),
        ("text.keras", lambda path: path.write_text("no weights")),
        ("damaged.weights.h5", _damaged),
        ("damaged", _damaged),
        ("empty", lambda path: path.mkdir()),
        ("module", _other_saved_model),
    ],
)
def test_unreadable_weights_files(tiny, file, write, tmp_path):
    write(tmp_path / file)
    with pytest.raises(
        UserError, match=rf"must be a readable.*{file}.*Fix: save it agai"
    ):
        tiny(weights=tmp_path / file)


@pytest.mark.parametrize("weights", ["", 5, b"w.h5", True])
def test_weights_of_the_wrong_kind(tiny, weights):
    with pytest.raises(
        UserError, match=r"`weights` must be None, .*Fix: None for random"
    ):
        tiny(weights=weights)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("file", ["m.keras", "w.weights.h5", "w.h5"])
def test_weights_that_are_not_finite(tiny, value, file, tmp_path):
    model = tiny("one_unit")
    gain = model.get_layer("stem").gain
    gain.assign(gain * value)
    path = _save(model, tmp_path / file)
    with pytest.raises(
        UserError, match=r"must be finite.*in stem/gain.*Fix: the train"
    ):
        tiny("one_unit", weights=path)


def test_code_in_weights_files_is_not_run(tmp_path, tiny):
    """A whole model may hold a Lambda, which Keras would run to load it."""
    ran = []
    model = tiny()
    lambda_layer = tf.keras.layers.Lambda(lambda x: ran.append(1) or x)
    trojan = tf.keras.Model(model.input, lambda_layer(model.output))
    trojan.save(tmp_path / "trojan.h5")
    ran.clear()
    assert_same_weights(tiny(weights=tmp_path / "trojan.h5"), model)
    assert not ran


def test_transfer_weights(tiny):
    """From step 1 to step 2, whatever the size of the images."""
    step1 = randomized(tiny(binary_weights=False))
    step2 = tiny(binary_weights=True, input_shape=(16, 16, 3))
    zoo.transfer_weights(step1, step2)
    assert_same_weights(step2, step1)


def test_transfer_is_all_or_nothing(tiny):
    source, target = tiny(num_classes=5), tiny()
    before = target.get_weights()
    message = (
        r"the weights must have .*2 of another shape: classifier/kernel \(expected"
    )
    with pytest.raises(UserError, match=message):
        zoo.transfer_weights(source, target)
    broken = tiny()
    broken.get_layer("classifier").bias.assign([0, np.nan, 0])
    with pytest.raises(UserError, match=r"must be finite.*classifier/bias"):
        zoo.transfer_weights(broken, target)
    for a, b in zip(before, target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
