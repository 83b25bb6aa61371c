"""Weights of networks: transfer, published bundles, and where they are found."""

from larq_nobn.weights.loading import load
from larq_nobn.weights.registry import list_weights
from larq_nobn.weights.transfer import transfer_weights

__all__ = ["list_weights", "load", "transfer_weights"]
