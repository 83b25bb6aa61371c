"""A recipe on another machine's accelerator: export it, bring back what it trained."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._files import out_path
from larq_nobn.datasets import DATASETS, Dataset
from larq_nobn.training import data, xla_runner
from larq_nobn.training.engine import STEPS, build_trainer, finish
from larq_nobn.training.folder import RunFolder
from larq_nobn.training.recipe import Recipe
from larq_nobn.training.xla_export import export
from larq_nobn.weights.transfer import assign_checked, named_weights

# What the exported programs cannot do, why, and what can be had; every other field is
# honoured.
_REFUSED = {
    "mixup": (bool, "has no mixup (XLA has no gamma distribution)", "mixup=0, or "),
    "cutmix": (bool, "has no CutMix (XLA has no gamma distribution)", "cutmix=0, or "),
    "precision": (
        "mixed_float16".__eq__,
        "does not scale its loss",
        "precision=mixed_bfloat16, or ",
    ),
}


def offload(
    recipe: Recipe,
    out: str | Path,
    data_dir: str | None = None,
    part_mb: float = 50.0,
    back: str | Path | None = None,
    unfinished: bool = False,
) -> str:
    """Export a training for a machine without TensorFlow, or bring it back from there.

    Without `back`, writes into `out` all that `out/run.py` needs to train both steps
    where only jax and NumPy are. With it, tests what came back and finishes the run's
    folder as `train` does.

    Args:
        recipe: What to train.
        out: Folder of the run.
        data_dir: tensorflow-datasets folder.
        part_mb: Size of each file of data and weights, at most, in megabytes.
        back: Folder with `training.json` and `weights_*.npz`, as `run.py` left them.
        unfinished: Whether to take a training that was stopped before its end.

    Returns:
        What was done and what to do now, in words.

    Raises:
        UserError: If the recipe has a setting that cannot be exported, the folder
            holds another run, or what came back is damaged, incomplete or of another
            export.
        OSError: If the folder cannot be written.
    """
    out = out_path(out)
    _check(recipe, part_mb)
    resume = (out / "settings.json").exists()
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(recipe.precision)
    try:
        with RunFolder(out, recipe, resume) as folder:
            if result := folder.result():
                return _summary(result, out)
            if back is None:
                return _export(folder, data_dir, part_mb)
            result = _bring_back(
                folder.recipe, folder, data_dir, Path(back), unfinished
            )
            return _summary(result, out)
    except xla_runner.BadInput as error:
        raise UserError(str(error)) from error
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)


def _check(recipe: Recipe, part_mb: float) -> None:
    for name, (is_refused, why, instead) in _REFUSED.items():
        value = getattr(recipe, name)
        if is_refused(value):
            raise UserError(
                f"An exported training {why}",
                got=f"{name}={value!r}",
                fix=f"{instead}train it with larq-nobn train",
            )
    if recipe.dataset in DATASETS:
        _check_crop(recipe, recipe.row)
    if not part_mb >= 0.05:
        raise UserError(
            "`part_mb` must be 0.05 or more",
            got=part_mb,
            fix="50 is the default",
        )


def _images(recipe: Recipe, data_dir: str | None) -> data.Images:
    settings = recipe.data_settings
    images = data.load_images(recipe.dataset, data_dir, recipe.limit, settings)
    _check_crop(recipe, images.row, isinstance(images, data.Images))
    return images


def _check_crop(recipe: Recipe, row: Dataset, in_memory: bool = True) -> None:
    if row.crop == "resized" or row.streamed or not in_memory:
        crop = "" if row.streamed else f", crop={row.crop!r}"
        instead = "" if row.streamed else "crop=padded and a smaller size, or "
        raise UserError(
            "An exported training holds its images in the device's memory, cropped "
            "with a border",
            got=f"dataset={recipe.dataset!r}{crop}",
            fix=f"{instead}train it with larq-nobn train",
        )


def _export(folder: RunFolder, data_dir: str | None, part_mb: float) -> str:
    out = folder.path
    if not (out / "description.json").exists():
        with folder.released_on_error():
            images = _images(folder.recipe, data_dir)
        recipe = folder.describe(images.row)
        data.check_batch_size(recipe.batch_size, images.train_size)
        export(recipe, images, out, part_mb)
    files = [file for file in out.iterdir() if file.suffix in (".npz", ".gz", ".py")]
    size = sum(file.stat().st_size for file in files) / 1e6
    return (
        f"{out} holds the whole training: {len(files) + 1} files, {size:.1f} MB. Copy "
        f"it to the accelerator and run there: python {out}/run.py --out OUT "
        "[--seconds S | --epochs N [M]] (it needs jax and NumPy). Bring back OUT's "
        "training.json and weights_*.npz, and call this again with --back OUT."
    )


def _bring_back(
    recipe: Recipe,
    folder: RunFolder,
    data_dir: str | None,
    back: Path,
    unfinished: bool,
) -> dict[str, Any]:
    """Test what came back in float32 and finish the run."""
    saved, weights = _read(folder.path, back)
    history, plan = saved["history"], saved["plan"]
    epochs = {step: len(history[step]) for step in STEPS}
    if not epochs["step2"] or (epochs != plan and not unfinished):
        begun = "; --unfinished takes it as it is" if epochs["step2"] else ""
        raise UserError(
            "A training must have come to its end",
            got=", ".join(f"{epochs[k]} of {plan[k]} epochs of {k}" for k in STEPS)
            + f" in {back}",
            fix=f"run.py --resume where it was stopped{begun}",
        )
    trained = recipe.replace(epochs=epochs["step2"], step1_epochs=epochs["step1"])
    if recipe.precision.startswith("mixed"):
        # As `train` does: saved in float32, and tested so.
        tf.keras.mixed_precision.set_global_policy("float32")
    images = _images(recipe, data_dir)
    model = build_trainer(trained.replace(ema=0.0), "step2")
    variables = named_weights(model)
    assign_checked(variables, weights, f"The weights in {back}")
    test = model.evaluate(images.test_batches(500), verbose=0, return_dict=True)
    steps = images.train_size // recipe.batch_size
    folder.write_history(history, {step: [] for step in STEPS}, sum(epochs.values()))
    return finish(
        folder,
        trained,
        history,
        {name: variable.numpy() for name, variable in variables.items()},
        sum(epochs.values()) * steps * recipe.batch_size,
        100 * test["accuracy"],
        saved["versions"],
    )


def _read(out: Path, back: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `run.py` left in a folder, checked against the export."""
    export_first = f"larq-nobn offload RECIPE --out {out}, without --back, comes first"
    described = xla_runner.read_json(
        out / "description.json", "The exported training", export_first
    )
    saved = xla_runner.read_json(
        back / "training.json",
        "What run.py trained",
        "give --back the folder that was run.py's --out, with its weights_*.npz",
    )
    if saved.get("id") != described["id"]:
        raise UserError(
            f"What came back must be of the export in {out}, {described['id']}",
            got=f"{back} of {saved.get('id')}, which is another",
            fix="give the --out that it was exported to",
        )
    try:
        arrays = xla_runner.read_pieces(back, saved["weights"])
        return saved, {k.removeprefix("model/"): v for k, v in arrays.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{back / 'training.json'} must be as run.py wrote it",
            got=f"{type(error).__name__}: {error}",
            fix="copy it again, with all weights_*",
        ) from error


def _summary(result: dict[str, Any], out: Path) -> str:
    top1 = result["top1"]["step2"]
    return f"The run is complete: top-1 {top1:.2f} % in float32, in {out}."
