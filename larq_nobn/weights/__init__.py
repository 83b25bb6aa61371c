"""Weights of networks: transfer, published bundles, and where they are found.

What there is, is found without TensorFlow, by which it is loaded.
"""

from larq_nobn._lazy import lazy

__all__ = ["list_weights", "load", "transfer_weights"]

__getattr__ = lazy(
    __name__,
    {
        "list_weights": "registry",
        "load": "loading",
        "transfer_weights": "transfer",
    },
)
