"""The architectures: what a network is and how it is built, without weights."""

from larq_nobn.networks.building import build, check_tensor
from larq_nobn.networks.plans import FAMILIES, NORMS, MobileNet, ResNet
from larq_nobn.networks.spec import STEMS, SURROGATES, Network, describe_network

__all__ = [
    "FAMILIES",
    "NORMS",
    "STEMS",
    "SURROGATES",
    "MobileNet",
    "Network",
    "ResNet",
    "build",
    "check_tensor",
    "describe_network",
]
