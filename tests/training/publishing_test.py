import dataclasses
import json
import shutil

import numpy as np
import pytest

from larq_nobn import UserError, zoo
from larq_nobn.cli import main
from larq_nobn.training import Recipe
from larq_nobn.training.folder import versions
from larq_nobn.training.publishing import publish_run
from larq_nobn.weights.card import read_card
from larq_nobn.weights.transfer import named_weights, weights_sha256

RECIPE = Recipe(
    name="tiny",
    dataset="digits",
    model="reactnet18",
    stem="cifar",
    width=4,
    epochs=1,
    limit=64,
    batch_size=32,
    seed=7,
)
FOLDER = "reactnet18_free_digits_width4"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder that `training.train` leaves, without waiting for the training."""
    folder = tmp_path_factory.mktemp("run")
    model = zoo.create_model(**RECIPE.model_arguments())
    model.save(folder / "model.keras")
    weights = {name: v.numpy() for name, v in named_weights(model).items()}
    steps = {"step1": 12.5, "step2": 10.25}
    result = {
        "recipe": RECIPE.name,
        "model": RECIPE.model_arguments(),
        "dataset": RECIPE.dataset,
        "top1": steps,
        "best_top1": steps,
        "epochs": {"step1": 1, "step2": 1},
        "seed": RECIPE.seed,
        "seconds": 1.5,
        "images_per_second": 85.0,
        "weights_sha256": weights_sha256(weights),
        "settings": dataclasses.asdict(RECIPE),
        "versions": versions(),
        "git_revision": None,
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "history.json").write_text("{}")
    (folder / "curve.png").write_bytes(b"a picture")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_publish(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "zoo"
    edit(run, lambda r: r["settings"].update(weights="/home/me/first.keras"))
    assert main(["publish", str(run), "--out", str(out)]) == 0
    result = json.loads((run / "result.json").read_text())
    card = read_card(out / FOLDER / "card.json")
    assert card.metrics["top1"] == result["top1"]["step2"]
    assert card.recipe["top1_step1"] == result["top1"]["step1"]
    assert card.recipe["name"] == "tiny"
    assert card.recipe["seed"] == 7
    # Not where it lay.
    assert card.recipe["weights"] == "first.keras"
    assert card.recipe["epochs_step2"] == 1
    assert card.recipe["learning_rate"] == RECIPE.learning_rate
    assert card.versions["tensorflow"] == result["versions"]["tensorflow"]
    assert card.license == "Apache-2.0"
    assert card.redistributable
    assert card.dataset == "digits"
    assert (out / FOLDER / "curve.png").read_bytes() == (run / "curve.png").read_bytes()
    output = capsys.readouterr().out
    assert f"top-1 {card.metrics['top1']:.2f} %, packed.npz 0." in output
    # What was trained is what `weights=` gives.
    monkeypatch.setenv("LARQ_NOBN_ZOO", str(out))
    arguments = {key: v for key, v in result["model"].items() if key != "surrogate"}
    published = zoo.create_model(**arguments, weights="digits")
    trained = zoo.create_model(**arguments, weights=run / "model.keras")
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1))
    images = zoo.preprocess_input(images, published)
    np.testing.assert_allclose(published(images), trained(images), rtol=1e-4, atol=1e-5)


def edit(run, change):
    result = json.loads((run / "result.json").read_text())
    change(result)
    (run / "result.json").write_text(json.dumps(result))


def test_optional_entries(run, tmp_path):
    def strip(result):
        for key in set(result) - {"model", "dataset", "top1"}:
            del result[key]

    edit(run, strip)
    for name in ("curve.png", "history.json"):
        (run / name).unlink()
    folder = publish_run(run, tmp_path / "zoo", full=False, license="")
    card = read_card(folder / "card.json")
    assert set(card.recipe) == {"top1_step1"}
    assert card.versions == {}
    assert not card.redistributable
    assert list(card.files) == ["packed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("top1"), "a result.json without top1"),
        (lambda r: r.update(model=[]), "a result.json without model"),
        (lambda r: r["model"].pop("name"), "without the model's name"),
        (lambda r: r["model"].update(name="x"), "`name` must be one of"),
        (lambda r: r["model"].update(depth=3), r"unknown arguments .*'depth'"),
        (lambda r: r["model"].update(width=8), "must have exactly the model's"),
        (lambda r: r["model"].update(norm="none"), "must have exactly the model's"),
        (lambda r: r["top1"].update(step2=101), "top1=101, which is no percentage"),
        (lambda r: r["top1"].pop("step1"), "top1_step1=None, which is no percentage"),
        (lambda r: r["model"].update(binary_activations=False), "a real-valued twin"),
        (lambda r: r.update(dataset="svhn"), "`dataset` must be one of"),
        (lambda r: r.update(weights_sha256="0"), "a model.keras with other weights"),
    ],
)
def test_contradictions(run, tmp_path, change, message):
    edit(run, change)
    with pytest.raises(UserError, match=message):
        publish_run(run, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "a result.json that is no JSON"), ("[]", "without dataset, model, top1")],
)
def test_damaged_result(run, tmp_path, content, message):
    (run / "result.json").write_text(content)
    with pytest.raises(UserError, match=message):
        publish_run(run, tmp_path / "zoo")


@pytest.mark.parametrize("name", ["result.json", "model.keras"])
def test_incomplete_run(run, tmp_path, capsys, name):
    (run / name).unlink()
    assert main(["publish", str(run), "--out", str(tmp_path / "zoo")]) == 2
    assert "must be the folder of a complete training" in capsys.readouterr().err


def test_damaged_model(run, tmp_path):
    (run / "model.keras").write_bytes(b"PK\x03\x04")
    with pytest.raises(
        UserError, match="must be a readable HDF5 weights file or .keras"
    ):
        publish_run(run, tmp_path / "zoo")
