"""What `weights=` reads from files, and what it refuses."""

import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same_weights, randomized

from larq_nobn import UserError, zoo

rng = np.random.default_rng(0)


def _images(*shape):
    return rng.normal(size=shape).astype("float32")


WEIGHTS_FILES = ("m.keras", "m.h5", "w.weights.h5", "w.h5")


def _save(model, path):
    (model.save_weights if path.name.startswith("w") else model.save)(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("file", WEIGHTS_FILES)
def test_weights_from_a_path(tiny, file, tmp_path):
    """Saved weights and models, compiled and trained ones included."""
    kwargs = {"norm": "batch"}
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
    # Of what the model does not have, .keras files give numbers only.
    "norm": ({"norm": "none"}, "unexpected: .*/(gain|vars/1)"),
    "batch norm": (
        {"norm": "batch"},
        "missing: .*_bn/.*; .*unexpected: .*/(gain|vars/1)",
    ),
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
        UserError, match=r"must have exactly the model's .*Received: .*Fix: build"
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


def _archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


def _compressed(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}" + 10**6 * " ")


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("text.h5", lambda path: path.write_text("no weights")),
        ("text.keras", lambda path: path.write_text("no weights")),
        ("damaged.weights.h5", _damaged),
        ("damaged", _damaged),
        ("empty", lambda path: path.mkdir()),
        ("module", _other_saved_model),
        ("archive.keras", _archive),
        ("bomb.keras", _compressed),
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


def _trojan(model, marker, path):
    """The model with a layer whose code leaves a file behind, when it is loaded."""

    def run(x, marker=str(marker)):
        import pathlib

        pathlib.Path(marker).touch()
        return x

    trojan = tf.keras.Model(model.input, tf.keras.layers.Lambda(run)(model.output))
    trojan.save(path)
    marker.unlink(missing_ok=True)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_code_in_weights_files_is_not_run(tmp_path, tiny, suffix, name):
    """A whole model may hold a Lambda; files are read for what they are."""
    model, marker = tiny("one_unit"), tmp_path / "ran"
    _trojan(model, marker, tmp_path / f"trojan{suffix}")
    path = (tmp_path / f"trojan{suffix}").rename(tmp_path / name)
    assert_same_weights(tiny("one_unit", weights=path), model)
    assert not marker.exists()


@pytest.mark.slow
def test_saved_models_are_not_run(tmp_path, tiny):
    model = tiny("one_unit")
    _trojan(model, tmp_path / "ran", tmp_path / "m")
    with pytest.raises(UserError, match="a SavedModel is a program, and is not run"):
        tiny("one_unit", weights=tmp_path / "m")
    assert not (tmp_path / "ran").exists()


def _external(file, kernel):
    secret = Path(file.filename).with_name("secret")
    secret.write_bytes(np.ones(kernel.shape, np.float32).tobytes())
    del file["stem/stem/kernel:0"]
    external = [(str(secret), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(
        "stem/stem/kernel:0", kernel.shape, np.float32, external=external
    )


def _linked(file, kernel):
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as target:
        target["kernel"] = np.ones(kernel.shape, np.float32)
    del file["stem/stem/kernel:0"]
    file["stem/stem/kernel:0"] = h5py.ExternalLink(str(other), "kernel")


def _virtual(file, kernel):
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as target:
        target["kernel"] = np.ones(kernel.shape, np.float32)
    shape = tuple(kernel.shape)
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource(str(other), "kernel", shape)
    del file["stem/stem/kernel:0"]
    file.create_virtual_dataset("stem/stem/kernel:0", layout)


def _fill_value(file, kernel):
    del file["stem/stem/kernel:0"]
    file.create_dataset("stem/stem/kernel:0", kernel.shape, np.float32, fillvalue=1.0)


def _texts(file, kernel):
    del file["stem/stem/kernel:0"]
    file["stem/stem/kernel:0"] = np.full(kernel.shape, b"1.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external, "which stores .* in other files"),
        (_virtual, "which stores .* in other files"),
        (_linked, "which links to something else"),
        (_fill_value, "makes [0-9,]+ bytes of 0"),
        (_texts, "is no array of numbers"),
    ],
)
def test_weights_from_outside_the_file(tmp_path, tiny, change, message):
    model = tiny("one_unit")
    path = _save(model, tmp_path / "w.h5")
    with h5py.File(path, "r+") as file:
        change(file, model.get_layer("stem").kernel)
    with pytest.raises(UserError, match=rf"w.h5, .*{message}.* Fix: save it again"):
        tiny("one_unit", weights=path)


def test_sizes_are_checked_before_reading(tmp_path, tiny):
    """A few kB that unpack to 400 million numbers."""
    path = _save(tiny("one_unit"), tmp_path / "w.h5")
    with h5py.File(path, "r+") as file:
        del file["stem/stem/kernel:0"]
        file.create_dataset(
            "stem/stem/kernel:0", (400_000_000,), "f4", chunks=(4_000_000,), fillvalue=1
        )
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"1,600,000,000 bytes of 0"):
            tiny("one_unit", weights=path)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


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
