"""Checkpoints that survive being killed while they are written."""

import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a number of epochs.

    Attributes:
        arrays: Weights and optimizer state by name.
        meta: Everything else, as JSON.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or not there.

    Args:
        path: The file.
        data: Its content.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


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
    arrays = folder / f"{number:06d}.npz"
    write_atomically(arrays, content)
    digest = hashlib.sha256(content).hexdigest()
    # The description comes last: a checkpoint without one does not exist.
    write_json(
        arrays.with_suffix(".json"), {**checkpoint.meta, "arrays_sha256": digest}
    )
    for old in sorted(folder.glob("*.json"))[:-KEEP]:
        old.unlink()
        old.with_suffix(".npz").unlink(missing_ok=True)


def load_latest(folder: Path) -> Checkpoint | None:
    """Read the newest intact checkpoint; damaged ones are named on stderr.

    Args:
        folder: Folder of the checkpoints.

    Returns:
        The checkpoint, or `None` if there is none.
    """
    for description in sorted(folder.glob("*.json"), reverse=True):
        try:
            meta = json.loads(description.read_text())
            path = description.with_suffix(".npz")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != meta.pop("arrays_sha256"):
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


def weights_sha256(weights: Mapping[str, np.ndarray]) -> str:
    """Digest of named weights: names, dtypes, shapes and bytes, in sorted order.

    Args:
        weights: Arrays by name.

    Returns:
        A hexadecimal SHA-256.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
