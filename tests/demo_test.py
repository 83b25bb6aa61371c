import json

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import UserError, demo
from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.training import data


def test_demo_trains_both_reloads_and_draws(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(FAMILIES, "tiny", ResNet((1, 1), width=8))
    recipe = demo.RECIPE.replace(model="tiny", width=None, epochs=3)
    result = demo.run(tmp_path, seed=3, recipe=recipe)

    written = json.loads((tmp_path / "result.json").read_text())
    assert written == result
    assert set(result["top1"]) == {"free", "batch"}
    assert result["seed"] == 3
    assert result["versions"]["tensorflow"] == tf.__version__
    assert result["seconds"] > 0
    assert (tmp_path / "report.png").read_bytes()[1:4] == b"PNG"

    # What it reports is what the saved model does.
    images, labels = data.load_images("digits").test
    model = tf.keras.models.load_model(tmp_path / "model.keras")
    predictions = model.predict(data.normalize(images, "digits"), verbose=0)
    top1 = 100 * (predictions.argmax(axis=1) == labels).mean()
    assert result["top1"]["free"] == pytest.approx(top1, abs=1e-3)
    assert result["top1_reloaded"] == pytest.approx(top1, abs=1e-3)
    # Three epochs of a tiny network are enough to be far above chance.
    assert top1 > 30
    assert "held-out digits right" in capsys.readouterr().out

    # Again in the same folder: it makes way for itself.
    demo._clear(tmp_path / "free")
    assert not (tmp_path / "free").exists()


def test_demo_leaves_other_folders_alone(tmp_path):
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "thesis.txt").write_text("two years")
    with pytest.raises(UserError, match="whose free holds something else"):
        demo.run(tmp_path)
    assert (tmp_path / "free" / "thesis.txt").exists()


def test_report_shows_all_mistakes(tmp_path):
    rows = [{"test_top1": 90.0, "top1": 91.0}]
    histories = {"BN-free": {"step1": rows, "step2": rows}}
    labels = np.arange(60) % 10
    wrong = np.eye(10)[(labels + 1) % 10]
    images = np.zeros((60, 8, 8, 1), np.uint8)
    demo.draw_report(histories, images, labels, wrong, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
