"""The architectures: what a network is and how it is built, without weights.

What they are is read without TensorFlow, by which they are built.
"""

from larq_nobn._lazy import lazy
from larq_nobn.networks.plans import MobileNet, ResNet
from larq_nobn.networks.spec import (
    FAMILIES,
    NORMS,
    STEMS,
    SURROGATES,
    NetworkSpec,
    place_of,
)

__all__ = [
    "FAMILIES",
    "NORMS",
    "STEMS",
    "SURROGATES",
    "MobileNet",
    "NetworkSpec",
    "ResNet",
    "build",
    "check_tensor",
    "name_and_norm",
    "place_of",
]

__getattr__ = lazy(
    __name__, dict.fromkeys(("build", "check_tensor", "name_and_norm"), "building")
)
