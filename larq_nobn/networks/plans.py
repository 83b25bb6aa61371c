"""The plans of the networks: one class per kind, every network a row.

The table is read without TensorFlow, so `features` imports what it builds with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from larq_nobn.networks.naming import BlockNames
from larq_nobn.networks.spec import FAMILIES, NORMS, NetworkSpec

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class ResNet:
    """The ResNet plan with binary 3×3 convolutions.

    Attributes:
        units: Residual units per stage.
        convs: Convolutions per residual unit.
        react: Whether units have ReActNet's learnable bias and RPReLU.
        alpha: The published α.
        width: Channels of the first stage; each further one doubles them.
        add_and_bit: Whether units are A&B BNN's.
        norms: The values of `norm` that exist.
    """

    units: tuple[int, ...]
    convs: int = 1
    react: bool = True
    alpha: float = 0.2
    width: int = 64
    add_and_bit: bool = False
    norms: tuple[str, ...] = NORMS
    real_downsamples: ClassVar[bool] = True
    names: ClassVar[BlockNames] = BlockNames(("stage", "unit"))

    def stride(self, stem: str) -> int:
        """The product of all strides."""
        return (4 if stem == "imagenet" else 1) * 2 ** (len(self.units) - 1)

    def least_weights(self) -> int:
        """How many weights there are at least, known without building the network."""
        channels = [self.width * 2**stage for stage in range(len(self.units))]
        # The first convolution of a stage reads half of the channels.
        halves = [2 * count * self.convs - 1 for count in self.units]
        return sum(9 * c**2 * n // 2 for c, n in zip(channels, halves, strict=True))

    def features(self, x: tf.Tensor, network: NetworkSpec) -> tf.Tensor:
        """Apply everything but the head."""
        from larq_nobn.layers import SymmetricMaxPooling2D
        from larq_nobn.networks.blocks import (
            BlockConfig,
            conv,
            resnet_unit,
            stage_betas,
        )

        config = BlockConfig(network, self.react, self.add_and_bit)
        if network.stem == "imagenet":
            x = conv(x, config, self.width, 7, strides=2, name="stem")
            x = SymmetricMaxPooling2D(
                3, 2, data_format="channels_last", name="stem_pool"
            )(x)
        else:
            x = conv(x, config, self.width, 3, name="stem")
        downsamples = [stage > 0 for stage in range(len(self.units))]
        betas = stage_betas(self.units, downsamples, network.alpha)
        if network.norm != "free":
            betas = [[1.0] * count for count in self.units]
        for stage, count in enumerate(self.units):
            for unit in range(count):
                first = unit == 0 and downsamples[stage]
                x = resnet_unit(
                    x,
                    config,
                    self.width * 2**stage,
                    stride=2 if first else 1,
                    downsample=first,
                    convs=self.convs,
                    beta=betas[stage][unit],
                    name=self.names.block(stage + 1, unit + 1),
                )
        return x


@dataclass(frozen=True)
class MobileNet:
    """ReActNet-A's plan, after MobileNetV1.

    Attributes:
        multiples: Width of each block in multiples of the stem's.
        alpha: The published α.
        width: Channels of the stem.
        add_and_bit: Whether blocks are A&B BNN's.
        norms: The values of `norm` that exist.
    """

    multiples: tuple[int, ...] = (2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)
    alpha: float = 0.2
    width: int = 32
    add_and_bit: bool = False
    norms: tuple[str, ...] = NORMS
    units: ClassVar[None] = None
    real_downsamples: ClassVar[bool] = False
    names: ClassVar[BlockNames] = BlockNames(("block",))

    def strides(self) -> list[int]:
        """Stride 2 where the width changes, but not in the first block."""
        before = (2, *self.multiples)
        return [
            1 if new == old else 2
            for old, new in zip(before, self.multiples, strict=False)
        ]

    def stride(self, stem: str) -> int:
        """The product of all strides."""
        return (2 if stem == "imagenet" else 1) * 2 ** self.strides().count(2)

    def least_weights(self) -> int:
        """How many weights there are at least, known without building the network."""
        blocks = zip((1, *self.multiples), self.multiples, strict=False)
        return sum((9 * old + new) * old * self.width**2 for old, new in blocks)

    def features(self, x: tf.Tensor, network: NetworkSpec) -> tf.Tensor:
        """Apply everything but the head."""
        from larq_nobn.networks.blocks import (
            BlockConfig,
            conv,
            mobile_betas,
            mobile_block,
        )

        config = BlockConfig(network, add_and_bit=self.add_and_bit)
        strides = 2 if network.stem == "imagenet" else 1
        x = conv(x, config, self.width, 3, strides=strides, name="stem")
        betas = list(mobile_betas(self.strides(), network.alpha))
        if network.norm != "free":
            betas = [(1.0, 1.0)] * len(betas)
        plan = zip(self.multiples, self.strides(), betas, strict=True)
        for i, (multiple, stride, beta) in enumerate(plan):
            x = mobile_block(
                x,
                config,
                self.width * multiple,
                stride=stride,
                betas=beta,
                name=self.names.block(i + 1),
            )
        return x


# A&B BNN (arXiv 2403.03739) avoids multiplications, and so has no batch norm.
_AB = {"alpha": 0.25, "add_and_bit": True, "norms": ("free",)}

FAMILIES |= {
    "reactnet18": ResNet((4, 4, 4, 4)),
    "reactnet34": ResNet((6, 8, 12, 6)),
    "reactnet_a": MobileNet(),
    "abnet18": ResNet((4, 4, 4, 4), **_AB),
    "abnet34": ResNet((6, 8, 12, 6), **_AB),
    "abnet_a": MobileNet(**_AB),
    "birealnet18": ResNet((4, 4, 4, 4), react=False),
    "xnornet18": ResNet((2, 2, 2, 2), convs=2, react=False),
}
