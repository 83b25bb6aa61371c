"""From the folder of a training run to a bundle."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import tensorflow as tf

from larq_nobn._errors import UserError, one_of
from larq_nobn._files import out_path
from larq_nobn.datasets import (
    DATASETS,
    check_name,
    class_names,
    class_pairs,
    plain_name,
    row_of,
)
from larq_nobn.networks import NetworkSpec, build
from larq_nobn.training.folder import data_settings
from larq_nobn.training.recipe import Recipe
from larq_nobn.weights.bundle import write_bundle
from larq_nobn.weights.card import Card
from larq_nobn.weights.loading import load_file
from larq_nobn.weights.transfer import named_weights, weights_sha256

LICENSE = "Apache-2.0"
_MAX_RESULT_BYTES = 1 << 20


def publish_run(
    run: str | Path,
    out: str | Path,
    *,
    license: str = LICENSE,
    full: bool = True,
    classifier_dtype: str = "float32",
    overwrite: bool = False,
    origin: str = "trained by larq_nobn",
) -> Path:
    """Build a bundle from a training run.

    Args:
        run: The run's folder, with `result.json` and `model.keras`.
        out: Folder of bundles.
        license: The weights' licence; empty if they must not be passed on.
        full: Whether to publish the latent weights too, for more training.
        classifier_dtype: Of the packed file, `"float32"` or `"float16"`.
        overwrite: Whether to replace a bundle of the same name.
        origin: Where the weights come from, in words, with all that sets the data apart
            from the data set's usual form.

    Returns:
        The bundle's folder.

    Raises:
        UserError: If the run is not complete, or its files contradict each other;
            nothing is written then.
        OSError: If it cannot be read, or the bundle not be written.
    """
    run = Path(run)
    one_of("classifier_dtype", classifier_dtype, ("float32", "float16"))
    result = _read_result(run / "result.json")
    network = _network(result, run)
    dataset = result["dataset"]
    check_name("dataset", dataset)
    model = build(network, classifier_activation=None)
    load_file(model, run / "model.keras")
    _check_digest(model, result, run)
    row = row_of(dataset, data_settings(run))
    known = dataset in DATASETS and not DATASETS[dataset].folders
    card = Card(
        network=network,
        dataset=plain_name(dataset),
        classes=class_names(dataset) if known else class_pairs(row.classes),
        mean=row.mean,
        std=row.std,
        metrics=_metrics(result, run),
        recipe=_recipe(result),
        versions=_texts(result.get("versions")),
        origin={"title": origin},
        license=license,
        redistributable=bool(license),
    )
    curve = run / "curve.png"
    return write_bundle(
        model,
        card,
        out_path(out),
        full=full,
        classifier_dtype=classifier_dtype,
        overwrite=overwrite,
        extra={"curve.png": curve.read_bytes()} if curve.is_file() else None,
        training=_training(card.recipe),
    )


def _read_result(path: Path) -> dict[str, Any]:
    if not path.is_file() or not path.with_name("model.keras").is_file():
        raise UserError(
            "A run must be the folder of a complete training, with result.json and "
            "model.keras",
            got=path.parent,
            fix=f"finish the training (larq-nobn train ... --out {path.parent} "
            "--resume)",
        )
    try:
        with path.open("rb") as file:
            result = json.loads(file.read(_MAX_RESULT_BYTES))
    except (ValueError, RecursionError) as error:
        raise _bad_result(path.parent, "a result.json that is no JSON") from error
    kinds = {"dataset": str, "model": dict, "top1": dict}
    wrong = [
        key
        for key, kind in kinds.items()
        if not isinstance(result, dict) or not isinstance(result.get(key), kind)
    ]
    if wrong:
        raise _bad_result(path.parent, f"a result.json without {', '.join(wrong)}")
    return result


def _network(result: Mapping[str, Any], run: Path) -> NetworkSpec:
    arguments = dict(result["model"])
    if "name" not in arguments or not isinstance(arguments["name"], str):
        raise _bad_result(run, "a result.json without the model's name")
    if arguments.get("binary_activations", True) is not True:
        raise _bad_result(run, "a real-valued twin, which is not published")
    unknown = sorted(set(arguments) - {f.name for f in fields(NetworkSpec)})
    if unknown:
        raise _bad_result(run, f"unknown arguments of create_model: {unknown}")
    return NetworkSpec(arguments.pop("name"), **arguments)


def _metrics(result: Mapping[str, Any], run: Path) -> dict[str, float]:
    step1, step2 = (result["top1"].get(step) for step in ("step1", "step2"))
    steps = {"top1": step2, "top1_step1": step1}
    for name, value in steps.items():
        if value is None and name == "top1_step1" and "step1" in result["top1"]:
            continue  # The recipe skipped it.
        if not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise _bad_result(run, f"{name}={value!r}, which is no percentage")
    # Step 1's network is not published, so its figure belongs to the recipe: every
    # metric on a card can be measured from the files beside it.
    return {"top1": float(step2)}


def _recipe(result: Mapping[str, Any]) -> dict[str, Any]:
    """Name, seed, revision and settings of the training, as far as they are there."""
    settings = result.get("settings")
    epochs = result.get("epochs")
    values = {
        "name": result.get("recipe"),
        "seed": result.get("seed"),
        "git_revision": result.get("git_revision"),
        "top1_step1": result["top1"]["step1"],
        **({f"epochs_{k}": v for k, v in epochs.items()} if _is_dict(epochs) else {}),
        **(
            {k: v for k, v in settings.items() if k != "name"}
            if _is_dict(settings)
            else {}
        ),
    }
    # Where files lay on somebody's disk is nobody's business.
    if isinstance(values.get("dataset"), str):
        values["dataset"] = plain_name(values["dataset"])
    for key in ("teacher", "weights"):
        if isinstance(values.get(key), str) and "://" not in values[key]:
            values[key] = Path(values[key]).name
    scalars = (str, int, float, bool)
    return {k: v for k, v in values.items() if isinstance(v, scalars)}


def _training(recipe: Mapping[str, Any]) -> dict[str, str]:
    """How a network was trained, and the command that does it again."""
    if "epochs_step2" not in recipe:
        return {}
    rows = {
        "training": f"{recipe.get('epochs_step1', 0)} + {recipe['epochs_step2']} "
        f"epochs, seed {recipe.get('seed')}, revision {recipe.get('git_revision')}"
    }
    if "top1_step1" in recipe:
        rows["behind step 1"] = f"top1 {recipe['top1_step1']:g} %"
    defaults = {field.name: field.default for field in fields(Recipe)}
    changed = [
        f"{key}={value}"
        for key, value in recipe.items()
        if key in defaults.keys() - {"name", "dataset", "model"}
        and value != defaults[key]
    ]
    command = f"larq-nobn train training/{recipe['name']}.py --out DIR"
    if changed:
        command += f" --set {' '.join(changed)}"
    return {**rows, "command": f"`{command}`"}


def _texts(content: Any) -> dict[str, str]:
    return {k: str(v) for k, v in content.items()} if _is_dict(content) else {}


def _is_dict(content: Any) -> bool:
    return isinstance(content, dict)


def _check_digest(model: tf.keras.Model, result: Mapping[str, Any], run: Path) -> None:
    """Check that model.keras holds the weights that the result is about."""
    expected = result.get("weights_sha256")
    if expected is None:
        return
    actual = weights_sha256({n: v.numpy() for n, v in named_weights(model).items()})
    if actual != expected:
        raise _bad_result(run, "a model.keras with other weights than result.json's")


def _bad_result(run: Path, what: str) -> UserError:
    return UserError(
        "A run must be the folder of a complete training, as larq-nobn train leaves it",
        got=f"{run}, with {what}",
        fix="train it again",
    )
