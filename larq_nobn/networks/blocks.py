"""Residual blocks of the zoo's networks, and the variance bookkeeping of their scales.

A block reads as its equation, with the letters of "BNN - BN = ?" (arXiv 2104.08215,
Section 3.1): f = residual branch, r = shortcut, α = how much each branch adds, β = what
brings its input back to unit variance. With batch norm, or without any norm, α = β = 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import larq as lq
import tensorflow as tf

from larq_nobn.layers import (
    LearnableBias,
    QuantConv2D,
    RPReLU,
    Scale,
    ScaledAdd,
    ScaledWSConv2D,
)
from larq_nobn.networks.spec import NetworkSpec
from larq_nobn.quantizers import FusedApproxSign


def _kernel_initializer(sign: object) -> tf.keras.initializers.Initializer:
    """A new initializer: Keras's, unseeded, repeat their numbers when used again."""
    if sign is not None:
        # Standardization removes the scale; the reference starts binary kernels small.
        return tf.keras.initializers.RandomUniform(0.0, 1e-3)
    # PyTorch's default for real kernels: Kaiming uniform with a = sqrt(5).
    return tf.keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


@dataclass(frozen=True)
class BlockConfig:
    """How every block of one network is built.

    Attributes:
        network: What is built.
        react: Whether blocks have ReActNet's learnable bias and RPReLU.
        add_and_bit: Whether blocks are A&B BNN's (arXiv 2403.03739): a sigmoid's
            derivative behind the sign, slopes that are powers of two, and a shortcut
            from in front of β, so that at inference β, positive and followed by a sign,
            can be left out.
    """

    network: NetworkSpec
    react: bool = True
    add_and_bit: bool = False

    @property
    def sign(self) -> str | lq.quantizers.Quantizer | None:
        """A new quantizer of activations, if they are binary."""
        if not self.network.binary_activations:
            return None
        published = "sigmoid_sign" if self.add_and_bit else "approx_sign"
        name = self.network.surrogate or published
        return FusedApproxSign() if name == "approx_sign" else name

    def rprelu(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """Apply the blocks' activation."""
        return RPReLU(power_of_two=self.add_and_bit, name=name)(x)


def stage_betas(
    units: Sequence[int], downsamples: Sequence[bool], alpha: float
) -> list[list[float]]:
    r"""Input scales β of a ResNet-like network, stage by stage.

    β is \\(E^{-1/2}\\) of the expected variance E. A stage's first unit neither grows E
    nor, unless it downsamples (then E = 1 behind it), resets it; each further one adds
    α². The official code does it so; NFNets let the first unit grow E too.

    Args:
        units: Number of residual units per stage.
        downsamples: Whether each stage's first unit has a downsampling shortcut.
        alpha: Factor on the residual branches.

    Returns:
        One list of β per stage.
    """
    betas, variance = [], 1.0
    for count, downsample in zip(units, downsamples, strict=True):
        stage = [variance**-0.5]
        if downsample:
            variance = 1.0
        for _ in range(count - 1):
            stage.append(variance**-0.5)
            variance += alpha**2
        betas.append(stage)
    return betas


def mobile_betas(strides: Sequence[int], alpha: float) -> Iterator[tuple[float, float]]:
    r"""Input scales (β₁, β₂) of ReActNet-A's blocks, each with two residual branches.

    A block uses the values from before its own update.

    Args:
        strides: Stride of each block.
        alpha: Factor on the residual branches.

    Yields:
        β₁ in front of the 3×3 convolution, β₂ in front of the pointwise one.
    """
    variance = 1.0
    beta1 = 1.0
    variance += alpha**2
    beta2 = variance**-0.5
    for stride in strides:
        yield beta1, beta2
        variance = variance + alpha**2 if stride == 1 else 1.0
        beta1 = variance**-0.5
        variance += alpha**2
        beta2 = variance**-0.5


def scale(x: tf.Tensor, beta: float, name: str) -> tf.Tensor:
    """Multiply by a constant; nothing for 1."""
    return x if beta == 1 else Scale(beta, name=name)(x)


def conv(
    x: tf.Tensor,
    config: BlockConfig,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    sign: str | lq.quantizers.Quantizer | None = None,
    binary: bool = False,
) -> tf.Tensor:
    """Convolution and, in a network with batch norm, its batch norm.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        config: How the network is built.
        filters: Number of output channels.
        kernel_size: Height and width of the kernel, odd.
        name: Name of the convolution; the batch norm's ends in `_bn`.
        strides: Stride in both directions.
        sign: Quantizer of the input, `None` for a real one.
        binary: Whether the kernel is binary.

    Returns:
        Tensor of shape `(batch, height / strides, width / strides, filters)`.
    """
    cls = ScaledWSConv2D if config.network.norm == "free" else QuantConv2D
    x = cls(
        filters,
        kernel_size,
        strides=strides,
        padding="symmetric",
        input_quantizer=sign,
        kernel_quantizer="scaled_sign" if binary else None,
        kernel_initializer=_kernel_initializer(sign),
        use_bias=False,
        data_format="channels_last",
        name=name,
    )(x)
    if config.network.norm == "batch":
        x = tf.keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, name=f"{name}_bn"
        )(x)
    return x


def binary_conv(
    x: tf.Tensor,
    config: BlockConfig,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    **kwargs,
) -> tf.Tensor:
    """Convolution on signs; its kernel is binary in step 2. Arguments as in `conv`."""
    return conv(
        x,
        config,
        filters,
        kernel_size,
        name=name,
        sign=config.sign,
        binary=config.network.binary_weights,
        **kwargs,
    )


def _average_pool(x: tf.Tensor, size: int, name: str) -> tf.Tensor:
    return tf.keras.layers.AveragePooling2D(
        size, data_format="channels_last", name=name
    )(x)


def downsample_shortcut(
    u: tf.Tensor, config: BlockConfig, filters: int, stride: int, name: str
) -> tf.Tensor:
    """Average pool and 1×1 convolution on real activations."""
    if stride > 1:
        u = _average_pool(u, stride, f"{name}_downsample_pool")
    network = config.network
    binary = network.binary_weights and network.binary_downsample
    return conv(u, config, filters, 1, binary=binary, name=f"{name}_downsample")


def resnet_unit(
    x: tf.Tensor,
    config: BlockConfig,
    filters: int,
    *,
    name: str,
    stride: int = 1,
    downsample: bool = False,
    convs: int = 1,
    beta: float = 1.0,
) -> tf.Tensor:
    r"""A residual unit of one or more 3×3 binary convolutions.

    \\[ u = \beta x, \quad y = \mathrm{RPReLU}(\alpha f(u) + r) \\]

    with \\(r\\) the downsampled \\(u\\) (in A&B BNN \\(x\\)), or \\(x\\).

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        config: How the network is built.
        filters: Number of output channels.
        name: Prefix of the layers' names.
        stride: Stride of the first convolution.
        downsample: Whether the shortcut has a convolution.
        convs: Number of convolutions under one shortcut: 1 in ReActNet and Bi-Real Net,
            2 in XNOR-Net.
        beta: Input scale.

    Returns:
        Tensor of shape `(batch, height / stride, width / stride, filters)`.
    """
    u = scale(x, beta, f"{name}_beta")
    r = x
    if downsample:
        r = x if config.add_and_bit else u
        r = downsample_shortcut(r, config, filters, stride, name)
    f = u
    for i in range(convs):
        suffix = "" if convs == 1 else f"{i + 1}"
        if config.react:
            f = LearnableBias(name=f"{name}_shift{suffix}")(f)
        f = binary_conv(
            f,
            config,
            filters,
            3,
            strides=stride if i == 0 else 1,
            name=f"{name}_conv{suffix}",
        )
    y = ScaledAdd(config.network.alpha, name=f"{name}_add")([f, r])
    return config.rprelu(y, f"{name}_rprelu") if config.react else y


def mobile_block(
    x: tf.Tensor,
    config: BlockConfig,
    filters: int,
    *,
    name: str,
    stride: int = 1,
    betas: tuple[float, float] = (1.0, 1.0),
) -> tf.Tensor:
    r"""ReActNet-A's block: a 3×3 and a pointwise binary convolution, a shortcut each.

    \\[ o = \mathrm{RPReLU}(\alpha\, conv(sign(\beta_1 x + b)) + r), \quad
        v = sign(\beta_2 o + b'), \quad
        y = \mathrm{RPReLU}(\alpha\, pw(v) + o) \\]

    Doubled width takes two pointwise convolutions, each added to \\(o\\), concatenated.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        config: How the network is built.
        filters: Number of output channels: those of the input, or twice as many.
        name: Prefix of the layers' names.
        stride: Stride of the 3×3 convolution.
        betas: Input scales of the two convolutions.

    Returns:
        Tensor of shape `(batch, height / stride, width / stride, filters)`.
    """
    channels = x.shape[-1]
    alpha = config.network.alpha
    u = scale(x, betas[0], f"{name}_beta1")
    f = LearnableBias(name=f"{name}_shift1")(u)
    f = binary_conv(f, config, channels, 3, strides=stride, name=f"{name}_conv")
    r = x
    if stride > 1:
        r = x if config.add_and_bit else u
        r = _average_pool(r, stride, f"{name}_pool")
    o = ScaledAdd(alpha, name=f"{name}_add1")([f, r])
    o = config.rprelu(o, f"{name}_rprelu1")

    v = scale(o, betas[1], f"{name}_beta2")
    v = LearnableBias(name=f"{name}_shift2")(v)
    halves = []
    for i in range(filters // channels):
        suffix = "" if filters == channels else f"{i + 1}"
        f = binary_conv(v, config, channels, 1, name=f"{name}_pointwise{suffix}")
        halves.append(ScaledAdd(alpha, name=f"{name}_add2{suffix}")([f, o]))
    y = halves[0]
    if len(halves) > 1:
        y = tf.keras.layers.Concatenate(name=f"{name}_concat")(halves)
    return config.rprelu(y, f"{name}_rprelu2")
