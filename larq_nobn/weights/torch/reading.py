"""Reading published PyTorch checkpoints without running what is in them."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from larq_nobn._errors import UserError, first_line
from larq_nobn._files import DAMAGE
from larq_nobn.weights.arrays import read_npz

# Before this version, `weights_only=True` could be talked into running code
# (CVE-2025-32434).
SAFE_TORCH = (2, 6)
# ReActNet-A with Adam's two moments in float64 takes 0.7 GB.
MAX_BYTES = 2 << 30


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a PyTorch file, or the same state dict in an `.npz` file.

    Args:
        path: A file of `torch.save`, whatever its name ends in, or an `.npz` file.

    Returns:
        What is in it: a state dict, or one under `"state_dict"` and more.

    Raises:
        UserError: If it is neither, holds more than numbers and containers, or PyTorch
            is missing or has a known hole.
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
    return _read_torch(path)


def looks_like_torch(start: bytes) -> bool:
    """Whether a file begins like those of torch.save: a zip archive or a pickle."""
    return start[:2] == b"PK" or (
        start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04"
    )


def _read_torch(path: Path) -> dict[str, Any]:
    torch = _import_torch(path)
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            # PyTorch warns of its own old formats, in which published files are.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # PyTorch's own text goes on to advise `weights_only=False`.
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f", which asks for {wanted[1]}" if wanted else ", which holds more"
        raise UserError(
            "A checkpoint must hold tensors and plain containers only; nothing else "
            "is ever unpickled",
            got=f"{path}{what}",
            fix="in a Python that trusts the file, save its state_dict alone by "
            "torch.save",
        ) from error
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if not isinstance(content, Mapping):
        raise UserError(
            "A PyTorch checkpoint must hold a state dict",
            got=f"{path}, which holds a {type(content).__name__}",
            fix="save model.state_dict()",
        )
    return dict(content)


def _import_torch(path: Path):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "Opening a PyTorch file needs PyTorch",
            got=f"{path}, and no PyTorch",
            fix="pip install 'larq_nobn[torch]', or save the state dict as an .npz "
            "file of arrays where PyTorch is",
        ) from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < SAFE_TORCH:
        raise UserError(
            "Opening a PyTorch file needs PyTorch 2.6 or newer: older ones can be "
            "made to run code from the file (CVE-2025-32434)",
            got=f"PyTorch {torch.__version__}",
            fix="pip install 'torch>=2.6'",
        )
    return torch


def _check_archive(path: Path) -> None:
    """Refuse zip archives that are damaged, or inflate to more than a checkpoint."""
    if not zipfile.is_zipfile(path):
        return  # PyTorch's format before 1.6, which has no checksums
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_BYTES:
                raise UserError(
                    f"A checkpoint must unpack to {MAX_BYTES:,} bytes at most",
                    got=f"{path}, {size:,} bytes",
                    fix="save its state_dict alone by torch.save",
                )
            # torch.load does not look at the checksums.
            wrong = archive.testzip()
    except UserError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if wrong is not None:
        raise _damaged(path, ValueError(f"wrong checksum of {wrong!r}"))


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        "A PyTorch checkpoint must be readable",
        got=f"{path}: {first_line(error)}",
        fix="download it again",
    )


def best_top1(content: Mapping[str, Any]) -> float | None:
    """The accuracy in percent that the published training scripts store, if any."""
    value = content.get("best_top1_acc")
    if value is None:
        return None
    try:
        value = np.asarray(value.item() if hasattr(value, "item") else value)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
    good = value.dtype.kind in "fi" and value.size == 1 and 0 <= value.item() <= 100
    # Stored in float32: 91.94000244140625.
    return round(float(value.item()), 4) if good else None
