"""`larq-nobn offload`: a rehearsal of all of it, and what is refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax_environments
import numpy as np
import pytest

from larq_nobn import UserError
from larq_nobn.cli import main
from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.training import Recipe, data, load_recipe, publish_run, xla_runner
from larq_nobn.training.offload import offload
from larq_nobn.weights.card import read_card

pytestmark = pytest.mark.slow

RECIPE_FILE = Path(__file__).parents[1] / "tiny_recipe.py"
SETTINGS = {"epochs": 6, "learning_rate": 4e-3, "clip_factor": 0.1, "limit": None}


@pytest.fixture(scope="module")
def _tiny():
    """The recipe's own network, gone behind this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "tiny", ResNet((1, 1), width=8))
        yield


@pytest.fixture(scope="module")
def recipe(_tiny):
    return load_recipe(RECIPE_FILE).replace(**SETTINGS)


def command(out, *arguments, name="offload"):
    settings = [f"{key}={value}" for key, value in SETTINGS.items()]
    arguments = [name, str(RECIPE_FILE), "--out", str(out), *arguments]
    return main([*arguments, "--set", *settings])


@pytest.fixture(scope="module")
def exported(recipe, tmp_path_factory):
    """Both steps on real images, with augmentation."""
    out = tmp_path_factory.mktemp("offload") / "run"
    assert command(out, "--part-mb", "0.06") == 0
    return out


@pytest.fixture(scope="module")
def rehearsed(exported):
    """What happened in many ways to train it, and where."""
    out = exported.parent / "trained"
    lines = jax_environments.run("rehearse", exported, out).splitlines()
    return out, json.loads(lines[-1])


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_a_folder_holds_everything_in_small_files(exported, recipe):
    what = json.loads((exported / "description.json").read_text())
    assert what["recipe"] == dataclasses.asdict(recipe)
    files = [file["name"] for file in what["data"]["files"]]
    assert files == ["data_0.npz", "data_1.npz", "data_2.npz"]
    assert max(file["bytes"] for file in what["data"]["files"]) <= 60_000
    assert set(what["programs"]) == {"step1", "step1_test", "step2", "step2_test"}
    runner = Path(xla_runner.__file__).read_text()
    assert (exported / "run.py").read_text() == runner
    _, arrays, _ = xla_runner.read_export(exported)
    digits = data.load_images("digits")
    assert arrays["train_images"].shape == (1437, 8, 8, 1)
    np.testing.assert_array_equal(arrays["train_images"], digits.train[0])
    np.testing.assert_array_equal(arrays["test_labels"], digits.test[1])


def test_an_export_again_says_what_to_do(exported, capsys):
    before = (exported / "step1.pb.gz").stat().st_mtime_ns
    assert command(exported) == 0
    assert "run.py --out OUT" in capsys.readouterr().out
    assert (exported / "step1.pb.gz").stat().st_mtime_ns == before


@jax_environments.needs_older
def test_a_rehearsal_learns(rehearsed):
    _, results = rehearsed
    (whole,) = results["whole"]
    assert whole["status"] == 0
    for step in ("step1", "step2"):
        rows = whole["history"][step]
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert rows[-1]["loss"] < 0.95 * rows[0]["loss"]
        assert [r["epoch"] for r in rows if "test_top1" in r] == [1, 2, 4, 6]
    assert rows[-1]["test_top1"] > 30


def without_times(history):
    return {k: [{**row, "seconds": 0} for row in history[k]] for k in history}


def weights(folder):
    saved = json.loads((folder / "training.json").read_text())
    return saved, xla_runner.read_pieces(folder, saved["weights"])


@jax_environments.needs_older
def test_a_stopped_training_ends_like_the_others(rehearsed):
    out, results = rehearsed
    (whole,) = results["whole"]
    killed, late, changed, resumed, again = results["stopped"]
    assert killed["status"] == 143
    assert len(killed["history"]["step1"]) == 3
    assert late["status"] == 3
    assert len(late["history"]["step2"]) == 2
    assert late["seconds"] <= 8
    assert changed["status"] == 2
    assert "must keep its epochs" in changed["error"]
    assert [resumed["status"], again["status"]] == [0, 0]
    assert without_times(resumed["history"]) == without_times(whole["history"])
    expected, received = (weights(out / name)[1] for name in ("whole", "stopped"))
    for name, array in expected.items():
        np.testing.assert_array_equal(received[name], array)
    # Nothing is left but what has to travel.
    assert not list((out / "stopped" / "state").iterdir())
    names = {path.name for path in (out / "stopped").iterdir()}
    assert names == {"state", "training.json", "weights_step2_00006_0.npz"}


@jax_environments.needs_older
def test_epochs_by_the_clock(rehearsed, recipe):
    out, results = rehearsed
    (clock,) = results["clock"]
    assert clock["status"] == 0
    assert clock["plan"] == {"step1": 11, "step2": 12}
    assert 28 <= clock["seconds"] <= 30
    planned = recipe.replace(epochs=12, step1_epochs=11)
    for step, rows in clock["history"].items():
        for epoch, row in enumerate(rows):
            rate = planned.learning_rate_at(epoch, step)
            assert row["learning_rate"] == pytest.approx(rate)
    # What was trained to measure an epoch is forgotten.
    whole = results["whole"][0]["history"]["step1"][0]
    assert clock["history"]["step1"][0]["loss"] == whole["loss"]
    saved, arrays = weights(out / "clock")
    assert {array.dtype for array in arrays.values()} == {np.dtype("float16")}
    assert saved["versions"]["jax"]


@jax_environments.needs_older
@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("short", 2, "--seconds must leave time for four epochs. Received: 2."),
        ("diverged", 1, "The loss must stay finite. Received: nan in step1, epoch 1"),
        ("chance", 1, "must learn more than the most frequent class. Received: top-1"),
    ],
)
def test_a_training_that_fails_says_why(rehearsed, name, status, message):
    (result,) = rehearsed[1][name]
    assert result["status"] == status
    assert message in result["error"]
    assert "Fix: " in result["error"]


@jax_environments.needs_newer
def test_the_newer_jax_does_the_same(exported, rehearsed, tmp_path):
    out = tmp_path / "out"
    options = "--out", out, "--epochs", "6", "1"
    jax_environments.run("train", exported, *options, python=jax_environments.NEWER)
    saved, _ = weights(out)
    assert saved["versions"]["jax"] == "0.11.2"
    whole = rehearsed[1]["whole"][0]["history"]["step1"]
    losses = [
        [row["loss"] for row in rows] for rows in (saved["history"]["step1"], whole)
    ]
    np.testing.assert_allclose(*losses, atol=0.05)


@jax_environments.needs_older
def test_what_comes_back_finishes_the_run(rehearsed, recipe, copy, tmp_path, capsys):
    out, results = rehearsed
    assert command(copy, "--back", str(out / "whole")) == 0
    assert "The run is complete: top-1" in capsys.readouterr().out
    result = json.loads((copy / "result.json").read_text())
    assert set(result) == {
        *("recipe", "model", "dataset", "top1", "best_top1", "epochs", "seed"),
        *("seconds", "images_per_second", "weights_sha256", "settings", "versions"),
        "git_revision",
    }
    history = results["whole"][0]["history"]
    for step in ("step1", "step2"):
        tested = [r["test_top1"] for r in history[step] if "test_top1" in r]
        # The device's, in float32 as here.
        assert result["top1"][step] == pytest.approx(tested[-1], abs=1e-4)
        assert result["best_top1"][step] == pytest.approx(max(tested))
    assert result["epochs"] == {"step1": 6, "step2": 6}
    assert result["settings"] == dataclasses.asdict(recipe) | {"step1_epochs": 6}
    assert result["versions"]["device"] == "cpu"
    assert json.loads((copy / "history.json").read_text()) == history
    assert len((copy / "history.csv").read_text().splitlines()) == 13
    assert (copy / "curve.png").exists()
    assert list((copy / "tensorboard" / "step1").iterdir())

    # As far as others can see, it is a run of `train`.
    assert command(copy, "--resume", name="train") == 0
    assert "after step 2" in capsys.readouterr().out
    assert "The run is complete" in offload(recipe, copy)
    bundle = publish_run(copy, tmp_path / "zoo", full=False)
    card = read_card(bundle / "card.json")
    assert card.metrics["top1"] == pytest.approx(result["top1"]["step2"])
    assert card.versions["device"] == "cpu"


@jax_environments.needs_older
def test_a_stopped_training_comes_back_only_if_wished(
    rehearsed, recipe, copy, tmp_path
):
    out, _ = rehearsed
    back = shutil.copytree(out / "clock", tmp_path / "back")
    saved = json.loads((back / "training.json").read_text())
    saved["plan"]["step2"] = 20
    (back / "training.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="12 of 20 epochs of step2 .*--unfinished take"):
        offload(recipe, copy, back=back)
    assert "is complete: top-1" in offload(recipe, copy, back=back, unfinished=True)
    result = json.loads((copy / "result.json").read_text())
    assert result["epochs"] == {"step1": 11, "step2": 12}
    assert result["settings"]["epochs"] == 12
    # From float16.
    last = saved["history"]["step2"][-1]["test_top1"]
    assert result["top1"]["step2"] == pytest.approx(last, abs=1.0)
    saved["history"]["step2"] = []
    (back / "training.json").write_text(json.dumps(saved))
    (copy / "result.json").unlink()
    with pytest.raises(UserError, match="0 of 20 epochs of step2 in .*stopped.$"):
        offload(recipe, copy, back=back)


def edit(name, **changes):
    """A change of a JSON file in a folder."""

    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return change


def swap(folder):
    shutil.copyfile(folder / "step2.pb.gz", folder / "step1.pb.gz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap, "step1.pb.gz must be the file of .*of another recipe"),
        (lambda f: (f / "data_1.npz").unlink(), "no data_1.npz. Fix: copy what is"),
        (lambda f: (f / "step2.pb.gz").write_bytes(b"x"), "1 bytes: it is cut off"),
        (edit("description.json", format=1), "of this program's format, 2. Received"),
        (lambda f: (f / "description.json").write_text("{"), "must be JSON"),
        (lambda f: None, "jax must be installed"),
    ],
)
def test_the_runner_refuses_a_wrong_folder(copy, tmp_path, change, message, capsys):
    change(copy)
    arguments = "--folder", str(copy), "--out", str(tmp_path / "out")
    # This Python has no jax, which is the last that it looks for.
    assert xla_runner.main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


@pytest.fixture
def back(copy, tmp_path):
    """As if `run.py` had trained an epoch a step."""
    what, _, arrays = xla_runner.read_export(copy)
    out = tmp_path / "back"
    out.mkdir()
    pieces = xla_runner.write_pieces(out, "weights_step2_00001", arrays, 5e4, np.savez)
    rows = [{"epoch": 1, "loss": 1.0, "top1": 50.0, "seconds": 1.0}]
    saved = {
        "format": xla_runner.FORMAT,
        "id": what["id"],
        "plan": {"step1": 1, "step2": 1},
        "history": {"step1": rows, "step2": rows},
        "weights": pieces,
        "versions": {},
    }
    (out / "training.json").write_text(json.dumps(saved))
    return out


def rename_piece(folder):
    piece = folder / "weights_step2_00001_0.npz"
    piece.rename(folder / "weights_step2_00002_0.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("training.json", id="other"), "must be of the export .*of other, which"),
        (edit("training.json", format=3), "of this program's format, 2. Received"),
        (edit("training.json", weights={}), "as run.py wrote it. Received: KeyError"),
        (lambda f: (f / "training.json").unlink(), "give --back the folder that was"),
        (rename_piece, r"\(but weights_step2_00002_0.npz, of another save\)"),
    ],
)
def test_wrong_ways_back(copy, back, change, message, capsys):
    change(back)
    assert command(copy, "--back", str(back)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (copy / "result.json").exists()


def test_a_folder_with_a_training_is_not_overwritten(copy, back, capsys):
    arguments = ["--folder", str(copy), "--out", str(back)]
    assert xla_runner.main(arguments) == 2
    assert "needs a folder of its own" in capsys.readouterr().err
    edit("training.json", id="other")(back)
    assert xla_runner.main([*arguments, "--resume"]) == 2
    assert "must go on with the same export" in capsys.readouterr().err


def test_nothing_comes_back_before_an_export(tmp_path, capsys):
    assert command(tmp_path / "run", "--back", str(tmp_path)) == 2
    assert "without --back, comes first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mixup": 0.2}, "has no mixup .*Received: mixup=0.2. Fix: mixup=0, or train"),
        ({"cutmix": 1.0}, "has no CutMix .*Received: cutmix=1.0. Fix: cutmix=0, or"),
        ({"precision": "mixed_float16"}, "precision='mixed_float16'. Fix: precision="),
        ({"dataset": "imagenet"}, "Received: dataset='imagenet'. Fix: train it with"),
        ({"batch_size": 9999}, "must be from 1 to the number of training images"),
    ],
)
def test_what_cannot_be_exported_is_named(recipe, tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        offload(recipe.replace(**setting), tmp_path / "run")


def test_pieces_have_a_size(recipe, tmp_path):
    with pytest.raises(UserError, match="`part_mb` must be 0.05 or more. Received: 0"):
        offload(recipe, tmp_path / "run", part_mb=0)


def test_every_field_of_a_recipe_has_its_place():
    """A new field must be thought of here, and in `offload`."""
    network = "model norm stem width units alpha surrogate binary_activations"
    program = (
        "batch_size optimizer clip_factor weight_decay label_smoothing teacher "
        "teacher_weight ema padding flip_test precision seed"
    )
    runner = "epochs step1_epochs learning_rate schedule warmup_epochs"
    images = "dataset limit size crop flip mean std classes test_share storage"
    start = "weights"
    refused = "mixup cutmix"
    fields = " ".join(
        (network, program, runner, images, start, refused, "name")
    ).split()
    assert {field.name for field in dataclasses.fields(Recipe)} == set(fields)
