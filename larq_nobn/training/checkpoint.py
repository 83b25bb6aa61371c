"""Checkpoints that survive being killed while they are written."""

import hashlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from larq_nobn._files import write_atomically, write_json

KEEP = 2


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
    # The description comes last: a checkpoint without one does not exist.
    digest = _digest(checkpoint.meta, content)
    write_json(arrays.with_suffix(".json"), {**checkpoint.meta, "sha256": digest})
    for old in _descriptions(folder)[:-KEEP]:
        old.unlink()
        old.with_suffix(".npz").unlink(missing_ok=True)


def _digest(meta: dict[str, Any], arrays: bytes) -> str:
    """Of the arrays' bytes, and of what the description says, however it is written."""
    description = json.loads(json.dumps(meta))
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    digest.update(arrays)
    return digest.hexdigest()


def _descriptions(folder: Path) -> list[Path]:
    """The checkpoints' descriptions, the newest last."""
    return sorted(folder.glob("[0-9]*.json"), key=lambda path: int(path.stem))


def load_latest(folder: Path) -> Checkpoint | None:
    """Read the newest intact checkpoint; damaged ones are named on stderr.

    Args:
        folder: Folder of the checkpoints.

    Returns:
        The checkpoint, or `None` if there is none.
    """
    for description in reversed(_descriptions(folder)):
        try:
            meta = json.loads(description.read_text())
            if not isinstance(meta, dict):
                raise ValueError("its description is no JSON object")
            path = description.with_suffix(".npz")
            content = path.read_bytes()
            if "arrays_sha256" in meta:  # Written before descriptions had one.
                expected = meta.pop("arrays_sha256")
                digest = hashlib.sha256(content).hexdigest()
            else:
                expected = meta.pop("sha256")
                digest = _digest(meta, content)
            if digest != expected:
                raise ValueError("its SHA-256 does not match")
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            print(
                f"larq-nobn: checkpoint {description.stem} in {folder} is damaged "
                f"({error}); using the one before",
                file=sys.stderr,
            )
            continue
        return Checkpoint(arrays, meta)
    return None
