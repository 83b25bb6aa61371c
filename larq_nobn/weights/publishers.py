"""Publishers of checkpoints, one row each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Publisher:
    """A publisher of checkpoints.

    Attributes:
        title: Its name.
        url: Where it publishes.
        paper: Its paper.
        license: Its licence; empty if it has none.
        binary_downsample: Whether its ResNets' 1×1 kernels are binary in step 2.
        normalizes_as: The dataset by whose statistics it normalizes images, whatever
            they are; `None` for the images' own.
        cifar_stem: Whether its ReActNet-A has a stem of its own for small images.
    """

    title: str
    url: str
    paper: str
    license: str
    binary_downsample: bool = True
    normalizes_as: str | None = None
    cifar_stem: bool = False


PUBLISHERS = {
    "bnn_nobn": Publisher(
        "BNN - BN = ?",
        "https://github.com/VITA-Group/BNN_NoBN",
        "arXiv 2104.08215",
        "MIT",
    ),
    "reactnet": Publisher(
        "ReActNet, by its authors",
        "https://github.com/liuzechun/ReActNet",
        "arXiv 2003.03488",
        "",
        binary_downsample=False,
    ),
    "ab_bnn": Publisher(
        "A&B BNN",
        "https://github.com/Ruichen0424/AB-BNN",
        "arXiv 2403.03739",
        "MIT (as stated at https://huggingface.co/Ruichen0424/AB-BNN)",
        normalizes_as="imagenet",
        cifar_stem=True,
    ),
}
