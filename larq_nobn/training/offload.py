"""A recipe on another machine's accelerator: export, run there, bring back, go on."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from larq_nobn._errors import UserError
from larq_nobn._files import write_json
from larq_nobn.training import data
from larq_nobn.training.engine import STEPS, build_trainer, publishable
from larq_nobn.training.folder import RunFolder
from larq_nobn.training.recipe import Recipe
from larq_nobn.training.xla_export import export_epoch, load_state
from larq_nobn.weights.transfer import assign_checked, named_weights


def offload(recipe: Recipe, out: str | Path, data_dir: str | None = None) -> str:
    """Do the next thing for a training that runs outside TensorFlow.

    The first call exports step 1 to `out/step1`, to be run by its `run.py`. The second
    takes step 1's weights and exports step 2; the third takes those of step 2 and
    leaves `result.json`, `model.keras` and the history, as `train` does. Both steps
    hand on their last weights, because the accelerator does not test.

    Args:
        recipe: What to train.
        out: Folder of the run.
        data_dir: tensorflow-datasets folder.

    Returns:
        What to do now, in words.

    Raises:
        UserError: If the folder holds another run, or what came back is not complete.
        OSError: If the folder cannot be written.
    """
    out = Path(out)
    resume = (out / "settings.json").exists()
    with RunFolder(out, recipe, resume) as folder:
        if folder.result():
            return f"The run is complete: {out / 'result.json'}."
        if recipe.epochs_of("step1") == 0:
            raise UserError(
                "An exported training has both steps. Received: step1_epochs=0. "
                "Fix: at least 1."
            )
        images = data.load_images(recipe.dataset, data_dir, recipe.limit)
        if not isinstance(images, data.Images):
            raise UserError(
                "An exported training holds its images in the device's memory. "
                f"Received: dataset={recipe.dataset!r}. Fix: train it with larq-nobn "
                "train."
            )
        weights = None
        history = {}
        for step in STEPS:
            exported = out / step
            single = recipe.replace(epochs=recipe.epochs_of(step), step1_epochs=None)
            model = build_trainer(recipe, step)
            if not (exported / "description.json").exists():
                if weights is not None:
                    assign_checked(
                        named_weights(model), weights, "The weights of step1"
                    )
                    for average, variable in zip(
                        model.averages, model.trainable_variables, strict=False
                    ):
                        average.assign(variable)
                export_epoch(model, single, images, exported)
                return (
                    f"Now run {exported / 'run.py'} where the accelerator is (it needs "
                    "jax, and the folder around it), bring its state.npz and "
                    "history.json back, and call this again."
                )
            history[step] = _bring_back(single, model, exported)
            with model.averaged():
                test = model.evaluate(
                    images.test_batches(256), verbose=0, return_dict=True
                )
                weights = {k: v.numpy() for k, v in named_weights(model).items()}
            history[step][-1]["test_loss"] = test["loss"]
            history[step][-1]["test_top1"] = 100 * test["accuracy"]
        folder.save_model(publishable(recipe, weights))
        write_json(out / "history.json", history)
        return _finish(recipe, folder, history, weights)


def _bring_back(recipe: Recipe, model, exported: Path) -> list[dict]:
    """Load a step's state; its history, or an error if it is not complete."""
    load_state(model, exported / "state.npz")
    with np.load(exported / "state.npz", allow_pickle=False) as file:
        done = int(file["epochs_done"]) if "epochs_done" in file.files else 0
    history = exported / "history.json"
    if done < recipe.epochs or not history.exists():
        raise UserError(
            f"{exported.name} must be trained to its end, {recipe.epochs} epochs. "
            f"Received: {exported / 'state.npz'} after {done}. Fix: run "
            f"{exported / 'run.py'} again, it continues."
        )
    rows = json.loads(history.read_text())
    for row in rows:
        row["learning_rate"] = recipe.learning_rate_at(row["epoch"] - 1)
    return rows


def _finish(recipe: Recipe, folder: RunFolder, history: dict, weights: dict) -> str:
    from larq_nobn.weights.transfer import weights_sha256

    top1 = {step: history[step][-1]["test_top1"] for step in STEPS}
    folder.finish(
        {
            "recipe": recipe.name,
            "model": recipe.model_arguments(),
            "dataset": recipe.dataset,
            "top1": top1,
            "epochs": {step: len(history[step]) for step in STEPS},
            "seed": recipe.seed,
            "seconds": sum(row["seconds"] for step in STEPS for row in history[step]),
            "weights_sha256": weights_sha256(weights),
            "offloaded": True,
            "settings": dataclasses.asdict(recipe),
        },
        history,
    )
    return f"The run is complete: top-1 {top1['step2']:.2f} %, in {folder.path}."
