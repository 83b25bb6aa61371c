"""The architectures: what a network is and how it is built, without weights."""

from larq_nobn.networks.building import build, check_tensor
from larq_nobn.networks.plans import MobileNet, ResNet
from larq_nobn.networks.spec import FAMILIES, NORMS, STEMS, SURROGATES, NetworkSpec

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
]
