"""The demonstration: BN-free against its BN twin on real scans, without a network."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from larq_nobn._errors import UserError
from larq_nobn._figures import new_figure, save_figure
from larq_nobn._files import out_path, write_json
from larq_nobn.training import Recipe, data, train
from larq_nobn.training.folder import NAMES, versions
from larq_nobn.training.plots import plot_history

RECIPE = Recipe(
    name="demo",
    dataset="digits",
    model="reactnet18",
    stem="cifar",
    width=16,
    epochs=18,
    batch_size=64,
    learning_rate=4e-3,
    schedule="cosine",
    clip_factor=0.1,
)
TITLES = {"free": "BN-free", "batch": "batch norm"}

# Runs in a separate process, which knows the model only from the file.
_PREDICT = """
import sys, numpy as np, tensorflow as tf, larq_nobn
model = tf.keras.models.load_model(sys.argv[1])
images = np.load(sys.argv[2], allow_pickle=False)
np.save(sys.argv[3], model.predict(images, verbose=0))
"""


def run(out: str | Path, seed: int = 0, recipe: Recipe = RECIPE) -> dict[str, Any]:
    """Train both networks, reload and predict in a fresh process, draw the report.

    Args:
        out: Folder for `report.png`, `model.keras` and `result.json`.
        seed: Seed of both trainings.
        recipe: What to train; the norm is set here.

    Returns:
        The content of `result.json`: `top1` in percent by norm, `seconds`, `versions`
        and `seed`.

    Raises:
        UserError: If `out` holds something that is not a demo's.
        OSError: If `out` cannot be written.
    """
    started = time.monotonic()
    out = out_path(out)
    histories, top1 = {}, {}
    for norm, title in TITLES.items():
        print(f"Training a binary ReActNet, {title}, on 1,437 scanned digits:")
        folder = out / norm
        _clear(folder)
        result = train(recipe.replace(norm=norm, seed=seed), folder)
        top1[norm] = result["top1"]["step2"]
        histories[title] = json.loads((folder / "history.json").read_text())
    shutil.copyfile(out / "free" / "model.keras", out / "model.keras")

    images, labels = data.load_images("digits").test
    print("Loading the BN-free model in a fresh process and predicting:")
    predictions = predict_in_fresh_process(out / "model.keras", images, out)
    right = predictions.argmax(axis=1) == labels
    reloaded = 100 * right.mean()
    print(f"{right.sum()} of {len(labels)} held-out digits right ({reloaded:.2f} %)")
    if abs(reloaded - top1["free"]) > 1e-3:
        raise RuntimeError(
            f"The reloaded model reaches {reloaded} %, before saving {top1['free']} %."
        )
    draw_report(histories, images, labels, predictions, out / "report.png")
    result = {
        "top1": top1,
        "top1_reloaded": float(reloaded),
        "seconds": time.monotonic() - started,
        "seed": seed,
        "versions": versions(),
    }
    write_json(out / "result.json", result)
    return result


def predict_in_fresh_process(model: Path, images: np.ndarray, folder: Path):
    """Class probabilities of a saved model, computed by another Python process.

    Args:
        model: The saved model.
        images: Pixel values of shape `(batch, height, width, channels)`.
        folder: Where to put the arrays that go between the processes.

    Returns:
        Array of shape `(batch, classes)`.
    """
    inputs, outputs = folder / ".images.npy", folder / ".predictions.npy"
    try:
        np.save(inputs, data.normalize(images, "digits").numpy())
        command = [sys.executable, "-c", _PREDICT, model, inputs, outputs]
        subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        return np.load(outputs, allow_pickle=False)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"The fresh process failed: {error.stderr}") from error
    finally:
        inputs.unlink(missing_ok=True)
        outputs.unlink(missing_ok=True)


def draw_report(
    histories: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    path: Path,
) -> None:
    """Draw the curves and a grid of test digits with their predictions.

    Args:
        histories: For each network's title its history.
        images: Pixel values of shape `(batch, 8, 8, 1)`.
        labels: The true digits, of shape `(batch,)`.
        predictions: Class probabilities of shape `(batch, 10)`.
        path: The PNG.
    """
    figure = new_figure(13, 5.8, layout=None)
    grid = figure.add_gridspec(
        5, 17, left=0.075, right=0.99, top=0.85, bottom=0.1, wspace=0.35, hspace=0.6
    )
    axes = figure.add_subplot(grid[:, :7])
    plot_history(axes, histories, lowest=70)
    axes.set_title("Binary ReActNet on scikit-learn's digits", pad=12)

    guesses = predictions.argmax(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    shown = np.concatenate([wrong, np.flatnonzero(guesses == labels)])[:45]
    for place, i in enumerate(shown):
        ax = figure.add_subplot(grid[place // 9, 8 + place % 9])
        ax.imshow(images[i, ..., 0], cmap="gray_r")
        ax.set_axis_off()
        fine = guesses[i] == labels[i]
        ax.set_title(
            f"{guesses[i]}" if fine else f"{guesses[i]}, not {labels[i]}",
            fontsize=9,
            color="#0072B2" if fine else "#D55E00",
        )
    figure.text(
        0.745,
        0.93,
        f"BN-free, 1-bit weights and activations: {len(wrong)} mistakes (orange, "
        f"first) on {len(labels)} held-out digits",
        ha="center",
    )
    save_figure(figure, path)


def _clear(folder: Path) -> None:
    """Make way for a new run, but delete nothing that a demo did not write."""
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()}
    if "settings.json" not in found or found - NAMES:
        raise UserError(
            "`--out` must be a folder of its own for the demo",
            got=f"{folder.parent}, whose {folder.name} holds something else",
            fix="choose another --out",
        )
    shutil.rmtree(folder)
