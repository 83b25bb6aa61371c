"""The model zoo: networks, their weights, and what goes around them."""

from larq_nobn.networks import FAMILIES
from larq_nobn.weights.registry import list_weights
from larq_nobn.weights.torch.importing import import_checkpoint
from larq_nobn.weights.torch.layouts import load_torch_state_dict
from larq_nobn.weights.transfer import transfer_weights
from larq_nobn.zoo.entry_points import (
    ABNet18,
    ABNet34,
    ABNetA,
    ReActNet18BN,
    ReActNet18NoBN,
    ReActNet18Plain,
    ReActNet34BN,
    ReActNet34NoBN,
    ReActNet34Plain,
    ReActNetBN,
    ReActNetNoBN,
    ReActNetPlain,
)
from larq_nobn.zoo.models import create_model, list_models, load
from larq_nobn.zoo.preprocessing import decode_predictions, preprocess_input

__all__ = [
    "ABNet18",
    "ABNet34",
    "ABNetA",
    "FAMILIES",
    "ReActNet18BN",
    "ReActNet18NoBN",
    "ReActNet18Plain",
    "ReActNet34BN",
    "ReActNet34NoBN",
    "ReActNet34Plain",
    "ReActNetBN",
    "ReActNetNoBN",
    "ReActNetPlain",
    "create_model",
    "decode_predictions",
    "import_checkpoint",
    "list_models",
    "list_weights",
    "load",
    "load_torch_state_dict",
    "preprocess_input",
    "transfer_weights",
]
