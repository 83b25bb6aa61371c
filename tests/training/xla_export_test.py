"""Exported programs against Keras's own steps."""

import dataclasses
import gzip
import json

import jax_environments
import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import zoo
from larq_nobn.datasets import DATASETS
from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.training import Recipe, data, pipeline, xla_export, xla_runner
from larq_nobn.training.engine import build_trainer
from larq_nobn.training.trainer import load_teacher
from larq_nobn.weights.transfer import assign_checked, named_weights

pytestmark = pytest.mark.slow

STEPS = 4


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setitem(FAMILIES, "tiny", ResNet((1,), width=8))
    return Recipe(
        name="exported",
        dataset="digits",
        model="tiny",
        stem="cifar",
        batch_size=16,
        epochs=2,
        learning_rate=2e-3,
        schedule="cosine",
        weight_decay=1e-3,
    )


@pytest.fixture
def images(monkeypatch):
    """Four batches and 4 images left over.

    Noise: on the digits' constant background the first convolution, whose kernels have
    no mean, gives nothing but rounding errors, and their signs differ between two
    runtimes.
    """
    source = dataclasses.replace(DATASETS["digits"], crop_padding=0)
    monkeypatch.setitem(DATASETS, "digits", source)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (STEPS * 16 + 4, 8, 8, 1)).astype(np.uint8)
    noise = pixels, rng.integers(0, 10, len(pixels))
    return data.Images("digits", noise, noise)


def set_precision(precision):
    tf.keras.mixed_precision.set_global_policy(precision)
    tf.keras.backend.set_floatx("float64" if precision == "float64" else "float32")


def trained(folder, *options):
    """What `run.py` makes of an export: its history and weights."""
    out = folder / "out"
    jax_environments.run("train", folder, "--out", out, "--test-every", "1", *options)
    saved = json.loads((out / "training.json").read_text())
    weights = xla_runner.read_pieces(out, saved["weights"])
    return saved["history"], {k.removeprefix("model/"): v for k, v in weights.items()}


def order(recipe, images, number):
    shuffled = np.random.default_rng([recipe.seed, number])
    return shuffled.permutation(images.train_size)[: STEPS * 16].reshape(STEPS, 16)


def keras_epoch(model, recipe, images, step, epoch, pictures):
    """An epoch of Keras's steps on given pictures; mean loss, and the test."""
    model.optimizer.learning_rate = recipe.learning_rate_at(epoch, step)
    number = epoch + (recipe.epochs_of("step1") if step == "step2" else 0)
    losses = []
    for batch, index in zip(pictures, order(recipe, images, number), strict=True):
        labels = tf.one_hot(images.train[1][index], 10)
        x = data.normalize(tf.constant(batch), "digits")
        loss, _ = model.update(x, labels)
        losses.append(float(loss))
    with model.averaged():
        test = model.evaluate(images.test_batches(60), verbose=0, return_dict=True)
        weights = {k: v.numpy() for k, v in named_weights(model).items()}
    return np.mean(losses), test, weights


def plain(recipe, images, number):
    return images.train[0][order(recipe, images, number)]


@jax_environments.needs_older
@pytest.mark.parametrize(
    ("precision", "loss_within", "weights_within"),
    [("float32", 5e-5, 5e-5), ("mixed_bfloat16", 1e-2, 7e-3)],
)
def test_precision_is_the_recipes(
    recipe, images, tmp_path, precision, loss_within, weights_within
):
    """And so is the teacher."""
    set_precision(precision)
    file = str(tmp_path / "teacher.keras")
    zoo.create_model(
        "tiny", norm="batch", stem="cifar", input_shape=(8, 8, 1), num_classes=10
    ).save(file)
    recipe = recipe.replace(
        precision=precision, step1_epochs=0, teacher=file, teacher_weight=0.5
    )
    xla_export.export(recipe, images, tmp_path, 1.0)
    programs = json.loads((tmp_path / "description.json").read_text())["programs"]
    kind = {"float32": "f32", "mixed_bfloat16": "bf16"}[precision]
    # Stem and one unit: forward, backward by kernel and input, and the teacher's.
    assert programs["step2_test"]["convolutions"] == {kind: 2}
    assert programs["step2"]["convolutions"] == {kind: 8}

    history, weights = trained(tmp_path, "--epochs", "1")
    teacher = load_teacher(file, DATASETS["digits"])
    model = build_trainer(recipe, "step2", teacher)
    for epoch, row in enumerate(history["step2"]):
        pictures = plain(recipe, images, epoch)
        loss, _, expected = keras_epoch(model, recipe, images, "step2", epoch, pictures)
        assert row["loss"] == pytest.approx(loss, abs=loss_within)
    for name, value in expected.items():
        np.testing.assert_allclose(
            weights[name], value, atol=weights_within, err_msg=name
        )


@jax_environments.needs_older
def test_batch_norm_and_real_weights_in_one_step(recipe, images, tmp_path):
    set_precision("float64")
    recipe = recipe.replace(
        precision="float64",
        norm="batch",
        optimizer="sgd",
        binary_activations=False,
        step1_epochs=0,
    )
    xla_export.export(recipe, images, tmp_path, 1.0)
    history, weights = trained(tmp_path, "--epochs", "2")
    assert history["step1"] == []
    model = build_trainer(recipe, "step2")
    for epoch, row in enumerate(history["step2"]):
        pictures = plain(recipe, images, epoch)
        loss, test, expected = keras_epoch(
            model, recipe, images, "step2", epoch, pictures
        )
        assert row["loss"] == pytest.approx(loss, abs=1e-9)
        assert row["test_loss"] == pytest.approx(test["loss"], abs=1e-9)
    for name, value in expected.items():
        np.testing.assert_allclose(weights[name], value, atol=1e-9, err_msg=name)


def write_draws(recipe, images, folder, numbers):
    """A program that shows what is drawn and cropped in each step of some epochs."""
    pad = images.row.crop_padding

    @tf.function(jit_compile=True)
    def crops(pixels, index, seeds):
        def one(arguments):
            index, seed = arguments

            def draw(stream, shape, maxval):
                seeds = pipeline._stream(seed, stream)
                return tf.random.stateless_uniform(
                    shape, seeds, 0, maxval, tf.int32, alg="philox"
                )

            x = tf.gather(pixels, index)
            x = data.augment(x, seed, images.row, recipe.padding)
            offsets = draw(pipeline._CROP, [16, 2], 2 * pad + 1)
            return x, offsets, draw(pipeline._FLIP, [16, 1, 1, 1], 2)

        return tf.map_fn(
            one, (index, seeds), fn_output_signature=(tf.uint8, tf.int32, tf.int32)
        )

    pixels = images.train[0]
    index = np.concatenate([order(recipe, images, n) for n in numbers])
    first = [recipe.seed * 1_000_003 + n for n in numbers for _ in range(STEPS)]
    inputs = {
        "pixels": pixels,
        "index": index.astype(np.int32),
        "seeds": np.stack([first, list(range(STEPS)) * len(numbers)], 1),
    }
    specs = [tf.TensorSpec(array.shape, array.dtype) for array in inputs.values()]
    program, _ = xla_export.serialize(crops, specs)
    (folder / "draws.pb.gz").write_bytes(gzip.compress(program))
    np.savez(folder / "draws.npz", **inputs)
    return pixels[index]


def cropped_by_numpy(pictures, offsets, mirrors, pad):
    padded = np.pad(pictures, [(0, 0)] * 2 + [(pad, pad)] * 2 + [(0, 0)], "reflect")
    result = np.empty_like(pictures)
    for place in np.ndindex(pictures.shape[:2]):
        row, column = offsets[place]
        crop = padded[place][row : row + 8, column : column + 8]
        result[place] = crop[:, ::-1] if mirrors[place] else crop
    return result


@jax_environments.needs_older
def test_a_whole_training_equals_keras(recipe, images, tmp_path):
    """Both steps in float64, with what a recipe can ask for besides a teacher.

    The pictures that Keras trains on are cropped in NumPy, from the numbers that the
    device drew.
    """
    set_precision("float64")
    source = dataclasses.replace(images.row, crop_padding=1, flip=True)
    images = dataclasses.replace(images, row=source)
    recipe = recipe.replace(
        precision="float64",
        step1_epochs=3,
        warmup_epochs=1,
        label_smoothing=0.1,
        ema=0.9,
        padding="reflect",
        flip_test=True,
        seed=3,
    )
    xla_export.export(recipe, images, tmp_path, 0.05)
    pictures = write_draws(recipe, images, tmp_path, range(5))
    history, weights = trained(tmp_path, "--piece-mb", "0.05")

    with np.load(tmp_path / "drawn.npz") as drawn:
        shown, offsets, mirrors = (drawn[f"arr_{i}"] for i in range(3))
    assert set(np.unique(offsets)) == {0, 1, 2}
    crops = cropped_by_numpy(pictures, offsets, mirrors[..., 0, 0, 0], 1)
    np.testing.assert_array_equal(shown, crops)
    crops = crops.reshape(5, STEPS, 16, 8, 8, 1)
    # No epoch of step 2 repeats one of step 1.
    assert len({epoch.tobytes() for epoch in crops}) == 5

    best = None
    for step, numbers in (("step1", range(3)), ("step2", range(3, 5))):
        model = build_trainer(recipe, step)
        if best:
            assign_checked(named_weights(model), best, "Step 1")
            for average, variable in zip(
                model.averages, model.trainable_variables, strict=True
            ):
                average.assign(variable)
        highest = -1.0
        for row, number in zip(history[step], numbers, strict=True):
            loss, test, last = keras_epoch(
                model, recipe, images, step, row["epoch"] - 1, crops[number]
            )
            rate = recipe.learning_rate_at(row["epoch"] - 1, step)
            assert row["learning_rate"] == pytest.approx(rate)
            assert row["loss"] == pytest.approx(loss, abs=1e-9)
            assert row["test_loss"] == pytest.approx(test["loss"], abs=1e-9)
            assert row["test_top1"] == pytest.approx(100 * test["accuracy"])
            if test["accuracy"] > highest:
                highest, best = test["accuracy"], last
    for name, value in last.items():
        np.testing.assert_allclose(weights[name], value, atol=1e-9, err_msg=name)


def test_large_kernels_travel_rounded(recipe, images, tmp_path):
    recipe = recipe.replace(width=36, step1_epochs=0)
    xla_export.export(recipe, images, tmp_path, 1.0)
    what, _, arrays = xla_runner.read_export(tmp_path)
    weights = named_weights(build_trainer(recipe, "step2"))
    assert {f"model/{name}" for name in weights} == set(arrays)
    assert what["scales"]
    for name, variable in weights.items():
        scale, _ = what["scales"].get(f"model/{name}", (0.0, ""))
        within = scale / 2 + 1e-7
        np.testing.assert_allclose(
            arrays[f"model/{name}"], variable.numpy(), rtol=0, atol=within
        )
