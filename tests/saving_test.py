"""Loading models; the optimizers' state is in `optimizers_test.py`."""

import functools
import json
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import UserError
from larq_nobn.cli import main
from larq_nobn.optimizers import AdaptiveGradientClipping
from larq_nobn.saving import load_model as load_safely

load_model = functools.partial(load_safely, safe_mode=False)
rng = np.random.default_rng(0)
FORMATS = ("m.keras", "m.h5", "m")


def _model() -> tf.keras.Model:
    return tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(3)])


@pytest.mark.slow
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
        load_safely(tmp_path / "nowhere.keras")


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


# --- Files that hold code -------------------------------------------------------------


def _with_code(marker, path, nested=False):
    def run(x, marker=str(marker)):
        import pathlib

        pathlib.Path(marker).touch()
        return x

    layer = tf.keras.layers.Lambda(run)
    if nested:
        layer = tf.keras.Sequential([tf.keras.layers.TimeDistributed(layer)])
    model = tf.keras.Sequential([tf.keras.Input((2, 4)), layer])
    model.save(path)
    marker.unlink(missing_ok=True)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("m.keras", "m.keras"),
        ("m.h5", "m.h5"),
        ("m.h5", "n.keras"),
        ("m.keras", "n.h5"),
        ("m", "m"),
    ],
)
def test_code_is_not_run(name, renamed, nested, tmp_path, capsys):
    marker = tmp_path / "ran"
    _with_code(marker, tmp_path / name, nested)
    path = (tmp_path / name).rename(tmp_path / renamed)
    message = "holds a (Lambda layer|program). Fix: .*safe_mode=False, .*--unsafe"
    with pytest.raises(UserError, match=message):
        load_safely(path)
    assert main(["inspect", str(path)]) == 2
    assert "--unsafe" in capsys.readouterr().err
    assert not marker.exists()
    if renamed != "n.h5":
        load_model(path)
        # A SavedModel runs what was traced of it.
        assert marker.exists() or renamed == "m"


def _edited(path, edit):
    """Change the configuration in a .keras file."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    edit(config)
    content["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def _function(name, module):
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("system", "os"),
        ("exec", "builtins"),
        ("get_file", "keras.src.utils.data_utils"),
        ("load_model", "keras.src.saving.saving_api"),
    ],
)
def test_any_function_of_python_is_code(name, module, tmp_path):
    model = tf.keras.Sequential(
        [tf.keras.Input((4,)), tf.keras.layers.Dense(3, activation="tanh")]
    )
    model.save(tmp_path / "m.keras")
    load_safely(tmp_path / "m.keras")

    def edit(config):
        config["config"]["layers"][1]["config"]["activation"] = _function(name, module)

    _edited(tmp_path / "m.keras", edit)
    with pytest.raises(UserError, match=f"which holds {name} of {module}"):
        load_safely(tmp_path / "m.keras")


def test_tensorflows_functions_are_for_computing(tmp_path):
    """`tf.io` and the like write, read and delete files while a model is built."""
    x = inputs = tf.keras.Input((4,))
    model = tf.keras.Model(inputs, tf.nn.relu(x * 2 + 1)[:, :2])
    for path in (tmp_path / "m.keras", tmp_path / "m.h5"):
        model.save(path)
        np.testing.assert_allclose(load_safely(path)(np.ones((1, 4))), [[3, 3]])

    def edit(config):
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "TFOpLambda":
                layer["config"]["function"] = "io.gfile.remove"

    _edited(tmp_path / "m.keras", edit)
    with pytest.raises(UserError, match="which holds a call of io.gfile.remove"):
        load_safely(tmp_path / "m.keras")


def test_registered_layers_are_no_code(tmp_path):
    @tf.keras.utils.register_keras_serializable("saving_test")
    class Doubled(tf.keras.layers.Layer):
        def call(self, x):
            return 2 * x

    for path in (tmp_path / "m.keras", tmp_path / "m.h5"):
        tf.keras.Sequential([tf.keras.Input((4,)), Doubled()]).save(path)
        np.testing.assert_allclose(load_safely(path)(np.ones((1, 4))), 2)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_models_hold_their_weights_themselves(name, tmp_path):
    """HDF5's external storage would read any file."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(48))
    external = [(str(secret), 0, h5py.h5f.UNLIMITED)]
    path = tmp_path / name
    _model().save(path)
    inner = path
    if name == "m.keras":
        inner = tmp_path / "model.weights.h5"
        with zipfile.ZipFile(path) as archive:
            archive.extract(inner.name, tmp_path)
            config = archive.read("config.json"), archive.read("metadata.json")
    with h5py.File(inner, "r+") as file:
        kernel = file.visit(lambda n: n if n.endswith(("/0", "kernel:0")) else None)
        del file[kernel]
        file.create_dataset(kernel, (4, 3), "f4", external=external)
    if name == "m.keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config[0])
            archive.writestr("metadata.json", config[1])
            archive.write(inner, inner.name)
    with pytest.raises(UserError, match=r"which stores .* in other files"):
        load_model(path)
