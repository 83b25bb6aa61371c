"""The table of the zoo's networks: what they cost, counted by Larq."""

from collections.abc import Iterable

import tensorflow as tf
from larq.models import ModelProfile

from larq_nobn.networks import FAMILIES, NetworkSpec, build
from larq_nobn.weights.sources import Published

HEADER = [
    "model",
    "norm",
    "stem",
    "parameters",
    "1-bit MACs",
    "32-bit MACs",
    "size (1-bit)",
    "size (float32)",
]


WEIGHTS_HEADER = [
    "trained network",
    "data set",
    "top-1",
    "size",
    "1-bit MACs",
    "32-bit MACs",
    "to check it",
]


def weights_table(
    published: Iterable[Published],
) -> tuple[list[str], list[list[str]]]:
    """Accuracy and cost of published models, as their cards and Larq have them.

    Args:
        published: As `zoo.list_weights` returns them.

    Returns:
        The header and rows of strings.
    """
    rows = []
    for entry in published:
        profile = ModelProfile(build(entry.card.network))
        name = entry.card.folder_name
        rows.append(
            [
                name,
                entry.dataset,
                entry.top1 or "-",
                f"{entry.size / 1e6:.2f} MB",
                f"{profile.op_count('mac', 1) / 1e6:.0f} M",
                f"{profile.op_count('mac', 32) / 1e6:.1f} M",
                f"`larq-nobn evaluate {name}`",
            ]
        )
        tf.keras.backend.clear_session()
    return WEIGHTS_HEADER, rows


def model_table() -> list[list[str]]:
    """Count parameters, multiply-accumulates and bytes of every network.

    The ImageNet stem takes 224×224 images and 1000 classes, the CIFAR stem 32×32 and
    10. MACs and sizes are those of `larq.models.summary`: kernels of binary
    convolutions count one bit a weight, a gain one 32-bit MAC per output.

    Returns:
        Rows of strings, the header first.
    """
    rows = [HEADER]
    for name, family in FAMILIES.items():
        for stem, num_classes in (("imagenet", 1000), ("cifar", 10)):
            for norm in family.norms:
                network = NetworkSpec(
                    name, norm=norm, stem=stem, num_classes=num_classes
                )
                profile = ModelProfile(build(network))
                rows.append(
                    [
                        name,
                        norm,
                        stem,
                        f"{profile.weight_count() / 1e6:.2f} M",
                        f"{profile.op_count('mac', 1) / 1e6:.0f} M",
                        f"{profile.op_count('mac', 32) / 1e6:.1f} M",
                        f"{profile.memory / 8 / 1e6:.2f} MB",
                        f"{profile.fp_equivalent_memory / 8 / 1e6:.1f} MB",
                    ]
                )
                tf.keras.backend.clear_session()
    return rows
