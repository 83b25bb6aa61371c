"""Checkpoints that survive being killed while they are written."""

import hashlib
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from larq_nobn._errors import first_line
from larq_nobn._files import DAMAGE, read_json, write_atomically, write_json

KEEP = 2
_NUMBER = re.compile(r"\d{8,18}", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Attributes:
        arrays: Weights and optimizer state by name.
        meta: Everything else, as JSON.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def save_checkpoint(folder: Path, number: int, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and remove all but the last two.

    Args:
        folder: Folder of the checkpoints; made if missing.
        number: Number of the checkpoint, rising in a run.
        checkpoint: The state.

    Raises:
        OSError: If it cannot be written; the earlier ones stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **checkpoint.arrays)
    content = buffer.getvalue()
    arrays = folder / f"{number:08d}.npz"
    write_atomically(arrays, content)
    digest = hashlib.sha256(content).hexdigest()
    meta = {**checkpoint.meta, "arrays_sha256": digest}
    # The description comes last: a checkpoint without one does not exist.
    write_json(arrays.with_suffix(".json"), {**meta, "sha256": _digest(meta)})
    kept = _numbered(folder, ".json")[-KEEP:]
    for suffix in (".json", ".npz"):
        for old in _numbered(folder, suffix):
            if old.with_suffix(".json") not in kept:
                old.unlink()


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _numbered(folder: Path, suffix: str) -> list[Path]:
    """The checkpoints' files of one kind, the newest last."""
    paths = (p for p in folder.glob(f"*{suffix}") if _NUMBER.fullmatch(p.stem))
    return sorted(paths, key=lambda path: int(path.stem))


def load_latest(
    folder: Path, check: Callable[[dict[str, Any]], object] = dict
) -> Checkpoint | None:
    """Read the newest intact checkpoint; damaged ones are named on stderr.

    Args:
        folder: Folder of the checkpoints.
        check: Function that raises a `ValueError` or `TypeError` for a description that
            says nonsense; those of older versions have no digest.

    Returns:
        The checkpoint, or `None` if there is none.
    """
    numbers = {
        p.stem for suffix in (".json", ".npz") for p in _numbered(folder, suffix)
    }
    for number in sorted(numbers, key=int, reverse=True):
        path = folder / f"{number}.npz"
        try:
            meta = read_json(path.with_suffix(".json"))
            digest = meta.pop("sha256", None)
            if digest not in (None, _digest(meta)):
                raise ValueError("the SHA-256 of its description does not match")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != meta.pop("arrays_sha256"):
                raise ValueError("its SHA-256 does not match")
            check(meta)
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except DAMAGE as error:
            print(
                f"larq-nobn: checkpoint {number} in {folder} is damaged "
                f"({first_line(error):.200}); using the one before",
                file=sys.stderr,
            )
            continue
        return Checkpoint(arrays, meta)
    return None
