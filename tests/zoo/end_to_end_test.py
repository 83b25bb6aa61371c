"""From a checkpoint to a prediction, as a user goes: command, mirror, one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mirror import Mirror
from small import random_state

from larq_nobn import zoo
from larq_nobn.weights.torch.oracle import Variant, forward

SIZE = 64
USE = """
import json, os, sys
import numpy as np
from larq_nobn import zoo

def predict():
    model = zoo.ReActNetNoBN(weights="imagenet", input_shape=(64, 64, 3))
    images = np.load("images.npy")
    probabilities = model.predict(zoo.preprocess_input(images, model), verbose=0)
    names = zoo.decode_predictions(probabilities, top=1, dataset=model)
    return probabilities.tolist(), names

first = predict()
# From here on the network is forbidden.
os.environ["LARQ_NOBN_OFFLINE"] = "1"
second = predict()
os.environ.pop("LARQ_NOBN_ZOO")
third = predict()
with open("result.json", "w") as file:
    json.dump([first, second, third], file)
"""


def run(*command, cwd: Path, **environment) -> str:
    """Run in a clean process; only the path to this source tree is kept."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        "PYTHONPATH": str(Path(zoo.__file__).parents[2]),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.network
def test_import_serve_download_predict(tmp_path):
    """Full size: the official BN-free ReActNet-A, 29 million weights."""
    state = random_state(zoo.ReActNetNoBN(input_shape=(32, 32, 3)))
    checkpoint = {f"module.{key}": value for key, value in state.items()}
    np.savez(tmp_path / "model_best.npz", **checkpoint)
    options = "--model reactnet_a --norm free --data imagenet --out published"
    command = ["-m", "larq_nobn", "import", "model_best.npz", *options.split()]
    output = run(*command, cwd=tmp_path)
    assert "create_model('reactnet_a', weights=\"imagenet\")" in output

    folder = tmp_path / "published" / "reactnet_a_free_imagenet"
    assert (folder / "packed.npz").stat().st_size < 8e6
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    user = tmp_path / "user"
    user.mkdir()
    np.save(user / "images.npy", images)
    with Mirror(tmp_path / "published") as mirror:
        run("-c", USE, cwd=user, LARQ_NOBN_ZOO=mirror.url)
        requests = [path.rsplit("/", 1)[-1] for path in mirror.requests]
    assert set(requests) == {"card.json", "packed.npz"}
    assert requests.count("packed.npz") == 1
    cached = list((user / ".cache" / "larq_nobn").rglob("packed.npz"))
    assert len(cached) == 1

    first, second, third = json.loads((user / "result.json").read_text())
    assert first == second == third
    probabilities, names = first
    normalized = zoo.preprocess_input(images, "imagenet").transpose(0, 3, 1, 2)
    logits = forward(state, normalized, Variant(True, True, 2, 0.2))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # float32 here, float64 there: among a million signs of random weights, a few flip.
    deviation = np.abs(probabilities - expected).max(1) / expected.max(1)
    assert np.median(deviation) < 0.01
    expected_names = zoo.decode_predictions(expected, top=1)
    assert [n[0][:2] for n in names] == [list(n[0][:2]) for n in expected_names]
