"""Files of a bundle: which there are, and whether they are what its card says."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from larq_nobn._errors import UserError
from larq_nobn._files import sha256
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights.card import Card, WeightsFile

if TYPE_CHECKING:
    import tensorflow as tf

CARD = "card.json"
INDEX = "index.json"
_FOLDER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# Each takes a request of its own.
_MOST_BUNDLES = 1000
# Bound on the headers of one array in an .npz file.
_ENTRY_BYTES = 1024


def verify(path: Path, file: WeightsFile) -> None:
    """Check a weights file against its card.

    Args:
        path: The file.
        file: What the card says.

    Raises:
        UserError: If size or SHA-256 differ.
        OSError: If there is no such file.
    """
    if path.stat().st_size != file.size or sha256(path) != file.sha256:
        raise _another(path, file)


def check_sizes(folder: Path, card: Card) -> None:
    """Check that files are as large as a card says, before its network is built.

    Raises:
        UserError: If one is not.
    """
    for file in card.files.values():
        path = folder / file.name
        if path.is_file() and path.stat().st_size != file.size:
            raise _another(path, file)


def _another(path: Path, file: WeightsFile) -> UserError:
    return UserError(
        f"{path} must be the file that its card describes ({file.size:,} bytes, "
        f"SHA-256 {file.sha256})",
        got=f"another one, of {path.stat().st_size:,} bytes",
        fix="remove it and get it again",
    )


def most_bytes(model: tf.keras.Model, card: Card | None) -> int:
    """What the weights of a network can take in an .npz file, in float64."""
    numbers = model.count_params()
    if card is not None:
        # The file holds a classifier of the card's size, whatever the model has.
        numbers += 64 * card.network.width * card.network.num_classes
    return 8 * numbers + _ENTRY_BYTES * (3 * len(model.weights) + 16)


def check_size(model: tf.keras.Model, card: Card, file: WeightsFile) -> None:
    """Check, before a download, that a file is no larger than its network.

    Raises:
        UserError: If it is.
    """
    most = most_bytes(model, card)
    if file.size > most:
        raise UserError(
            f"{file.name} must hold the weights of {model.name}, at most {most:,} "
            "bytes",
            got=f"a card that says {file.size:,} bytes",
            fix="tell whoever published it",
        )


def call_arguments(card: Card) -> str:
    """What to call `create_model` with: the arguments that differ from its defaults."""
    values = asdict(card.network)
    network = NetworkSpec(values["name"], norm=values["norm"], stem=values["stem"])
    defaults = {**asdict(network), "norm": "free", "stem": "imagenet"}
    differing = [f"{k}={v!r}" for k, v in values.items() if v != defaults[k]]
    return ", ".join([repr(network.name), *differing, f'weights="{card.dataset}"'])


def load_index(data: bytes, where: str) -> list[str]:
    """The names in an `index.json`.

    Raises:
        UserError: If it is none.
    """
    try:
        content = json.loads(data)
        names = content["bundles"]
        good = content["format"] == 1 and isinstance(names, list)
        good = good and len(names) <= _MOST_BUNDLES and all(map(_is_folder_name, names))
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise UserError(
            f"{where} must be the index of a folder of up to {_MOST_BUNDLES} bundles",
            got="something else",
            fix="write it again by publishing into that folder",
        )
    return list(dict.fromkeys(names))


def _is_folder_name(name: object) -> bool:
    return isinstance(name, str) and _FOLDER_NAME.fullmatch(name) is not None
