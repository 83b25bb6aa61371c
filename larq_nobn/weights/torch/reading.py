"""Reading published PyTorch checkpoints without running what is in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from larq_nobn._errors import UserError, first_line
from larq_nobn._files import DAMAGE
from larq_nobn.weights.arrays import read_npz
from larq_nobn.weights.torch.unpickling import ForeignObject, load

# ReActNet-A with Adam's two moments in float64 takes 0.7 GB.
MAX_BYTES = 2 << 30


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a PyTorch file, or the same state dict in an `.npz` file.

    Args:
        path: A file of `torch.save`, whatever its name ends in, or an `.npz` file.

    Returns:
        What is in it, arrays for tensors: a state dict, or one under `"state_dict"`
        and more.

    Raises:
        UserError: If it is neither, is damaged, or holds more than numbers and
            containers.
        OSError: If there is no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if path.suffix == ".npz":
        return read_npz(path, MAX_BYTES)
    if start == b"\x89HDF\r\n\x1a\n":
        raise UserError(
            "A PyTorch checkpoint must be a file of torch.save",
            got=f"{path}, which is an HDF5 file",
            fix="pass it as weights= to zoo.create_model",
        )
    if not looks_like_torch(start):
        raise UserError(
            "A PyTorch checkpoint must be a file of torch.save",
            got=f"{path}, which is none (or a cut-off or damaged one)",
            fix="download it again",
        )
    try:
        content = load(path, MAX_BYTES)
    except ForeignObject as error:
        raise UserError(
            "A checkpoint must hold tensors and plain containers only; nothing else "
            "is ever unpickled",
            got=f"{path}, which asks for {error}",
            fix="in a Python that trusts the file, save its state_dict alone by "
            "torch.save",
        ) from error
    except DAMAGE as error:
        raise UserError(
            "A PyTorch checkpoint must be readable",
            got=f"{path}: {first_line(error)}",
            fix="download it again",
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(
            "A PyTorch checkpoint must hold a state dict",
            got=f"{path}, which holds a {type(content).__name__}",
            fix="save model.state_dict()",
        )
    return dict(content)


def looks_like_torch(start: bytes) -> bool:
    """Whether a file begins like those of torch.save: a zip archive or a pickle."""
    return start[:2] == b"PK" or (
        start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04"
    )


def best_top1(content: Mapping[str, Any]) -> float | None:
    """The accuracy in percent that the published training scripts store, if any."""
    value = content.get("best_top1_acc")
    if not isinstance(value, (int, float, np.ndarray, np.generic)):
        return None
    value = np.asarray(value)
    good = value.dtype.kind in "fi" and value.size == 1 and 0 <= value.item() <= 100
    # Stored in float32, e.g. 91.94000244140625.
    return round(float(value.item()), 4) if good else None
