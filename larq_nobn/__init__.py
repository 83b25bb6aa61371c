"""Binary neural networks without batch normalization, for Keras and Larq.

The method of "BNN - BN = ?" (arXiv 2104.08215): `layers`, `quantizers`, `constraints`,
`losses` and `optimizers`; its networks in `zoo`; their `training` and `tuning`; and
`remove_batch_norm`, which makes other networks like them.
"""

import importlib

import larq_nobn._keras2  # noqa: F401  # isort: skip  (first: it selects Keras 2)
import larq_nobn._tuner  # noqa: F401
from larq_nobn import (
    constraints,
    layers,
    losses,
    math,
    models,
    ops,
    optimizers,
    quantizers,
)
from larq_nobn._errors import UserError

__version__ = "0.1.0"

# Loaded on first use: they bring data and plotting libraries along.
_LAZY = ("batch_norm", "callbacks", "deploy", "saving", "training", "tuning", "zoo")
_FUNCTIONS = {"fold_batch_norm": "batch_norm", "remove_batch_norm": "batch_norm"}

__all__ = [
    "UserError",
    "constraints",
    "layers",
    "losses",
    "math",
    "models",
    "ops",
    "optimizers",
    "quantizers",
    *_LAZY,
    *_FUNCTIONS,
]


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module(f"larq_nobn.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"larq_nobn.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'larq_nobn' has no attribute {name!r}")
