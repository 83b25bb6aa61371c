"""Binary neural networks without batch normalization, for Keras and Larq.

The method of "BNN - BN = ?" (arXiv 2104.08215): `layers`, `quantizers`, `constraints`,
`losses` and `optimizers`; its networks in `zoo`; their `training` and `tuning`; and
`remove_batch_norm`, which makes other networks like them.
"""

import importlib
import sys
from pathlib import Path

from larq_nobn._errors import UserError
from larq_nobn._lazy import lazy

__version__ = "0.1.0"

# First `_keras2`: it selects Keras 2. Keras finds the classes of saved models only once
# they are imported.
_METHOD = (
    "_keras2",
    "_tuner",
    "constraints",
    "layers",
    "losses",
    "math",
    "models",
    "ops",
    "optimizers",
    "quantizers",
)
# Loaded on first use: they bring data and plotting libraries along.
_LAZY = ("batch_norm", "callbacks", "deploy", "saving", "training", "tuning", "zoo")
_FUNCTIONS = {"fold_batch_norm": "batch_norm", "remove_batch_norm": "batch_norm"}

__all__ = [
    "UserError",
    *(name for name in _METHOD if not name.startswith("_")),
    *_LAZY,
    *_FUNCTIONS,
]

__getattr__ = lazy(__name__, {name: name for name in _LAZY} | _FUNCTIONS)


def _import_method() -> None:
    for name in _METHOD:
        importlib.import_module(f"larq_nobn.{name}")


def _is_command() -> bool:
    """Whether this process is the command line, whose commands import what they need.

    Those it starts for parts of its work are not, though they have its `sys.argv`.
    """
    _, *arguments = sys.orig_argv or [""]
    if arguments[:2] == ["-m", "larq_nobn"]:
        return True
    return Path("".join(arguments[:1])).name in ("larq-nobn", "larq-nobn.exe")


if not _is_command():
    _import_method()
