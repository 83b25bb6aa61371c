import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import UserError
from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.training import Recipe, data, xla_export
from larq_nobn.training.engine import build_trainer
from larq_nobn.training.offload import offload
from larq_nobn.weights.transfer import named_weights, weights_sha256

# `make test` puts it there.
JAX_PYTHON = Path(sys.prefix) / "jax" / "bin" / "python"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setitem(FAMILIES, "tiny", ResNet((1, 1), width=8))
    # TensorFlow and XLA draw different numbers from one seed: compare without.
    plain = dataclasses.replace(data.SOURCES["digits"], crop_padding=0)
    monkeypatch.setitem(data.SOURCES, "digits", plain)
    tf.keras.backend.set_floatx("float64")
    tf.keras.mixed_precision.set_global_policy("float64")
    return Recipe(
        name="exported",
        dataset="digits",
        model="tiny",
        stem="cifar",
        batch_size=16,
        epochs=4,
        learning_rate=2e-3,
        schedule="cosine",
        weight_decay=1e-3,
        ema=0.9,
        precision="float64",
    )


def run(folder, *arguments):
    return subprocess.run(
        [JAX_PYTHON, folder / "run.py", "--platform", "cpu", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="jax has no release for Python 3.10 that fits"
)
def test_exported_epochs_equal_the_keras_step(recipe, tmp_path):
    # 7 steps, and 4 images left over. Noise: on the digits' constant background the
    # first convolution, whose kernels have no mean, gives nothing but rounding errors,
    # and their signs differ between two runtimes.
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (116, 8, 8, 1)).astype(np.uint8)
    noise = pixels, rng.integers(0, 10, 116)
    images = data.Images("digits", noise, noise)
    model = build_trainer(recipe, "step1")
    xla_export.export_epoch(model, recipe, images, tmp_path)

    # In two calls, as within a time limit: the second continues the first.
    for epochs in ("2", "3"):
        result = run(tmp_path, "--epochs", epochs)
        assert result.returncode == 0, result.stderr
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]

    for epoch, row in enumerate(history):
        model.optimizer.learning_rate = np.float32(recipe.learning_rate_at(epoch))
        x, y = images.train
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(x))
        losses = []
        for index in order[: 7 * 16].reshape(7, 16):
            batch = data.normalize(tf.constant(x[index]), "digits")
            loss, _ = model.update(batch, tf.one_hot(y[index], 10))
            losses.append(float(loss))
        assert row["loss"] == pytest.approx(np.mean(losses), abs=1e-10)

    trained = {k: v.numpy() for k, v in xla_export.state_variables(model).items()}
    xla_export.load_state(model, tmp_path / "state.npz")
    for name, variable in xla_export.state_variables(model).items():
        if not name.startswith("metric/"):
            np.testing.assert_allclose(
                variable, trained[name], atol=1e-10, err_msg=name
            )


@pytest.mark.slow
def test_mixup_cannot_be_exported(recipe, tmp_path):
    mixing = recipe.replace(mixup=0.2)
    model = build_trainer(mixing, "step1")
    with pytest.raises(UserError, match="no mixup or CutMix .*Received: mixup=0.2"):
        xla_export.export_epoch(model, mixing, data.load_images("digits"), tmp_path)


@pytest.mark.slow
def test_state_of_another_model(recipe, tmp_path):
    model = build_trainer(recipe, "step1")
    xla_export.save_state(model, tmp_path / "state.npz")
    other = build_trainer(recipe.replace(width=16), "step1")
    with pytest.raises(UserError, match="The exported run's state must have exactly"):
        xla_export.load_state(other, tmp_path / "state.npz")
    with pytest.raises(UserError, match="which does not exist"):
        xla_export.load_state(model, tmp_path / "nowhere.npz")


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="jax has no release for Python 3.10 that fits"
)
def test_offload_leads_through_both_steps(recipe, tmp_path):
    short = recipe.replace(epochs=2, limit=64)
    out = tmp_path / "run"
    assert "step1/run.py" in offload(short, out)
    with pytest.raises(UserError, match="to its end, 2 epochs. Received: .* after 0"):
        offload(short, out)
    assert run(out / "step1").returncode == 0
    assert "step2/run.py" in offload(short, out)
    # A time that is up behind the first epoch: called again, it continues.
    assert run(out / "step2", "--seconds", "0").returncode == 0
    with pytest.raises(UserError, match="after 1. Fix: run .*step2/run.py again"):
        offload(short, out)
    assert run(out / "step2").returncode == 0
    assert "The run is complete: top-1" in offload(short, out)
    result = json.loads((out / "result.json").read_text())
    assert result["epochs"] == {"step1": 2, "step2": 2}
    model = tf.keras.models.load_model(out / "model.keras")
    weights = {name: v.numpy() for name, v in named_weights(model).items()}
    assert weights_sha256(weights) == result["weights_sha256"]
    assert "The run is complete" in offload(short, out)
