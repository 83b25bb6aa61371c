"""Bundles: folders with a card, a README and the weights of a published model."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._files import sha256, write_atomically, write_json
from larq_nobn.networks import build
from larq_nobn.weights.arrays import read_npz, write_npz
from larq_nobn.weights.card import Card, WeightsFile, read_card
from larq_nobn.weights.files import CARD, INDEX, call_arguments, most_bytes, verify
from larq_nobn.weights.packing import (
    binary_kernel,
    binary_layers,
    pack_weights,
    unpack_weights,
)
from larq_nobn.weights.transfer import assign_checked, named_weights

_CLASSIFIER = "classifier/"


def write_bundle(
    model: tf.keras.Model,
    card: Card,
    out: Path,
    *,
    full: bool = True,
    classifier_dtype: str = "float32",
    overwrite: bool = False,
    extra: Mapping[str, bytes] | None = None,
    training: Mapping[str, str] | None = None,
) -> Path:
    """Publish a model: write its bundle, read it again and compare.

    Args:
        model: The network, with its classifier.
        card: Its card; `files` is filled in here.
        out: Folder of bundles; made if missing.
        full: Whether to write the latent weights too.
        classifier_dtype: Of the packed file, `"float32"` or `"float16"`.
        overwrite: Whether to replace a bundle of the same name.
        extra: Further files by name, such as a curve for the README.
        training: Rows for the README about the training, if it was ours.

    Returns:
        The bundle's folder, `out / card.folder_name`.

    Raises:
        UserError: If there is a bundle already, or what was written is not the model.
        OSError: If it cannot be written; nothing is left behind.
    """
    folder = out / card.folder_name
    if folder.exists() and not (overwrite and (folder / CARD).is_file()):
        raise UserError(
            "A bundle needs a folder of its own",
            got=f"{folder}, which exists",
            fix="remove it, choose another --out, or replace a bundle by --overwrite",
        )
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{card.folder_name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        arrays = {}
        # Without binary kernels there is nothing to pack.
        if binary_layers(model):
            arrays["packed"] = pack_weights(model, classifier_dtype)
        if full or not arrays:
            arrays["full"] = {n: v.numpy() for n, v in named_weights(model).items()}
        files = {}
        for kind, content in arrays.items():
            path = temporary / f"{kind}.npz"
            write_npz(path, content, compress=kind == "packed")
            files[kind] = WeightsFile(path.name, path.stat().st_size, sha256(path))
        card = replace(card, files=files)
        write_json(temporary / CARD, card.to_json())
        for name, content in (extra or {}).items():
            write_atomically(temporary / name, content)
        text = readme(card, extra or (), training)
        write_atomically(temporary / "README.md", text.encode())
        _compare(temporary, model)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    write_index(out)
    return folder


def write_index(out: Path) -> None:
    """List the bundles of a folder in its `index.json`, for mirrors over HTTP."""
    names = sorted(path.parent.name for path in out.glob(f"[!.]*/{CARD}"))
    write_json(out / INDEX, {"format": 1, "bundles": names})


def load_weights(
    model: tf.keras.Model, path: Path, card: Card | None = None, body_only: bool = False
) -> None:
    """Load a bundle's weights file, packed or full, into its network.

    Args:
        model: The network.
        path: The file, already verified where there is a card.
        card: Its card.
        body_only: Leave the model's classifier, if it has one, as it is.

    Raises:
        UserError: If the file is damaged or does not fit; the model is unchanged then.
        OSError: If there is no such file.
    """
    arrays = read_npz(path, most_bytes(model, card))
    values = unpack_weights(model, arrays)
    variables = named_weights(model)
    if body_only:
        variables, values = (
            {k: v for k, v in named.items() if not k.startswith(_CLASSIFIER)}
            for named in (variables, values)
        )
    assign_checked(variables, values, f"The weights in {path}")


def _compare(folder: Path, model: tf.keras.Model) -> None:
    """Check that the files make the forward pass of the model."""
    card = read_card(folder / CARD)
    copy = build(card.network, classifier_activation=None)
    for kind, file in card.files.items():
        verify(folder / file.name, file)
        load_weights(copy, folder / file.name, card)
        for layer, other in zip(binary_layers(model), binary_layers(copy), strict=True):
            kernel, written = binary_kernel(layer), binary_kernel(other)
            same = np.array_equal(kernel >= 0, written >= 0) and np.allclose(
                _effective(layer, kernel), _effective(other, written), rtol=1e-5
            )
            if not same:
                raise UserError(
                    f"The {kind} weights must give the model's kernels",
                    got=f"others in {layer.name}",
                    fix="look for a channel of that kernel with (nearly) constant "
                    "weights",
                )


def _effective(layer: tf.keras.layers.Layer, kernel: np.ndarray) -> np.ndarray:
    gain = getattr(layer, "gain", None)
    return kernel if gain is None else kernel * gain.numpy()


def readme(
    card: Card, extra: Iterable[str] = (), training: Mapping[str, str] | None = None
) -> str:
    """The README of a bundle, generated from its card.

    Args:
        card: The card.
        extra: Names of further files in the folder.
        training: Rows about the training.

    Returns:
        Markdown.
    """
    network = card.network
    metrics = "; ".join(f"{k} {v:g} %" for k, v in card.metrics.items()) or "not known"
    rows = {
        "network": f"{network.name}, norm={network.norm!r}",
        "weights": "binary" if network.binary_weights else "real (step 1)",
        "dataset": card.dataset,
        "result": metrics,
        "recipe": card.recipe.get("name", "not trained by larq_nobn"),
        **(training or {}),
        "versions": ", ".join(f"{k} {v}" for k, v in card.versions.items()),
        "origin": ", ".join(card.origin.values()),
        "licence": card.license
        or "none: these weights must not be passed on (no redistribution)",
        **{
            f"{kind} weights": f"`{file.name}`, {file.size:,} bytes, SHA-256 "
            f"`{file.sha256}`"
            for kind, file in card.files.items()
        },
    }
    table = "\n".join(f"| {key} | {_cell(value)} |" for key, value in rows.items())
    curve = "\n![curve](curve.png)\n" if "curve.png" in extra else ""
    latent = "."
    if "full" in card.files:
        latent = f'; `weights="{card.dataset}:full"` asks for the latent ones.'
    arguments = call_arguments(card).replace("'", '"')
    return f"""# {card.folder_name}

| | |
|---|---|
{table}
{curve}
```python
from larq_nobn import zoo

model = zoo.create_model({arguments})
images = zoo.preprocess_input(images, model)
print(zoo.decode_predictions(model.predict(images), dataset=model))
```

Generated from `{CARD}`. Packed weights take 1 bit per binary weight and give the same
forward pass{latent}
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
