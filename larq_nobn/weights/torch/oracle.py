"""The published PyTorch networks' own forward pass, in NumPy.

Written from the papers and the published code, after the state dict's names and in its
layout, and independently of the rest of the zoo: a checkpoint that was loaded into the
wrong network gives other logits here than there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Variant:
    """What a state dict does not tell about its network.

    Attributes:
        binary_weights: Whether kernels behind a sign are binary (step 2).
        binary_downsample: Whether the shortcuts' 1×1 kernels are binary then too.
        stem_stride: Stride of the first convolution.
        alpha: Factor on the residual branches of a BN-free network.
    """

    binary_weights: bool
    binary_downsample: bool
    stem_stride: int
    alpha: float


def forward(
    state: Mapping[str, np.ndarray], images: np.ndarray, variant: Variant
) -> np.ndarray:
    """Logits of a published network in evaluation mode.

    Args:
        state: The state dict, keys without `module.`; kernels of binary convolutions
            `weight` or, flat, `weights`.
        images: Array of shape `(batch, channels, height, width)`.
        variant: The rest.

    Returns:
        Array of shape `(batch, classes)`, float64.
    """
    state = {key: np.asarray(value, np.float64) for key, value in state.items()}
    return _Forward(state, variant).run(np.asarray(images, np.float64))


class _Forward:
    def __init__(self, state: Mapping[str, np.ndarray], variant: Variant):
        self.state = state
        self.variant = variant
        self.free = any(key.endswith(".gain") for key in state)
        self.add_and_bit = any(key.endswith(".L_alpha") for key in state)
        # Expected variance of the activations, in BN-free networks.
        self.variance = 1.0

    def run(self, x: np.ndarray) -> np.ndarray:
        x = self._mobile(x) if "feature.0.conv1.weight" in self.state else self._res(x)
        weight, bias = self.state["fc.weight"], self.state["fc.bias"]
        return x.mean((2, 3)) @ weight.T + bias

    def _res(self, x: np.ndarray) -> np.ndarray:
        x = self._conv(x, "conv1", "bn1", stride=self.variant.stem_stride)
        if self.variant.stem_stride == 2:
            x = _max_pool(x)
        for stage in range(1, 5):
            unit = 0
            while f"layer{stage}.{unit}.move0.bias" in self.state:
                x = self._res_unit(x, f"layer{stage}.{unit}", first=unit == 0)
                unit += 1
        return x

    def _res_unit(self, x: np.ndarray, name: str, first: bool) -> np.ndarray:
        u = x * self._beta()
        has_downsample = f"{name}.downsample.1.weight" in self.state
        shortcut = x
        if has_downsample:
            shortcut = _average_pool(x if self.add_and_bit else u)
            shortcut = self._conv(
                shortcut,
                f"{name}.downsample.1",
                f"{name}.downsample.2",
                binary=self.variant.binary_downsample,
            )
        if has_downsample:
            self.variance = 1.0
        if not first:
            self.variance += self.variant.alpha**2
        signs = np.sign(u + self.state[f"{name}.move0.bias"])
        conv = "conv1" if self.add_and_bit else "binary_conv"
        f = self._binary(signs, f"{name}.{conv}", f"{name}.bn1", 1 + has_downsample)
        return self._rprelu(f + shortcut, name, "move1", "prelu", "move2")

    def _mobile(self, x: np.ndarray) -> np.ndarray:
        stride = self.variant.stem_stride
        x = self._conv(x, "feature.0.conv1", "feature.0.bn1", stride=stride)
        beta1 = self._beta()
        self.variance += self.variant.alpha**2
        block = 1
        while f"feature.{block}.move11.bias" in self.state:
            name = f"feature.{block}"
            doubles = self._kernel(f"{name}.binary_pw_down1") is not None
            stride = 2 if doubles and block > 1 else 1
            x = self._mobile_block(x, name, (beta1, self._beta()), stride, doubles)
            self.variance = (
                1.0 if stride == 2 else self.variance + self.variant.alpha**2
            )
            beta1 = self._beta()
            self.variance += self.variant.alpha**2
            block += 1
        return x

    def _mobile_block(
        self,
        x: np.ndarray,
        name: str,
        betas: tuple[float, float],
        stride: int,
        doubles: bool,
    ) -> np.ndarray:
        u = x * betas[0]
        signs = np.sign(u + self.state[f"{name}.move11.bias"])
        f = self._binary(signs, f"{name}.binary_3x3", f"{name}.bn1", stride)
        shortcut = x
        if stride == 2:
            shortcut = _average_pool(x if self.add_and_bit else u)
        o = self._rprelu(f + shortcut, name, "move12", "prelu1", "move13")
        signs = np.sign(o * betas[1] + self.state[f"{name}.move21.bias"])
        names = [("binary_pw", "bn2")]
        if doubles:
            names = [("binary_pw_down1", "bn2_1"), ("binary_pw_down2", "bn2_2")]
        halves = [
            self._binary(signs, f"{name}.{conv}", f"{name}.{norm}", 1) + o
            for conv, norm in names
        ]
        y = np.concatenate(halves, axis=1)
        return self._rprelu(y, name, "move22", "prelu2", "move23")

    def _beta(self) -> float:
        return self.variance**-0.5 if self.free else 1.0

    def _kernel(self, name: str) -> np.ndarray | None:
        kernel = self.state.get(f"{name}.weight")
        return self.state.get(f"{name}.weights") if kernel is None else kernel

    def _binary(
        self, signs: np.ndarray, name: str, norm: str, stride: int
    ) -> np.ndarray:
        """A convolution on signs, times α where there is one."""
        f = self._conv(signs, name, norm, stride=stride, binary=True)
        return f * self.variant.alpha if self.free else f

    def _conv(
        self,
        x: np.ndarray,
        name: str,
        norm: str,
        *,
        stride: int = 1,
        binary: bool = False,
    ) -> np.ndarray:
        kernel = self._kernel(name)
        if kernel.ndim == 2:
            # Stored flat: these convolutions are 3×3 or 1×1, with equal widths.
            inputs = x.shape[1]
            size = 3 if name.endswith("3x3") else 1
            kernel = kernel.reshape(-1, inputs, size, size)
        if self.free:
            centred = kernel - kernel.mean((1, 2, 3), keepdims=True)
            fan_in = kernel[0].size
            std = kernel.std((1, 2, 3), keepdims=True)
            kernel = centred / (std + 1e-5) * fan_in**-0.5
        if binary and self.variant.binary_weights:
            kernel = np.sign(kernel) * np.abs(kernel).mean((1, 2, 3), keepdims=True)
        if self.free:
            kernel = kernel * self.state[f"{name}.gain"]
        y = _convolve(x, kernel, stride)
        return self._batch_norm(y, norm) if f"{norm}.weight" in self.state else y

    def _batch_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        weight, bias, mean, var = (
            self.state[f"{name}.{part}"].reshape(-1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def _rprelu(
        self, x: np.ndarray, name: str, before: str, prelu: str, behind: str
    ) -> np.ndarray:
        x = x + self.state[f"{name}.{before}.bias"]
        if self.add_and_bit:
            slope = 2.0 ** np.round(self.state[f"{name}.{prelu}.L_alpha"])
        else:
            slope = self.state[f"{name}.{prelu}.weight"]
        x = np.where(x >= 0, x, x * slope.reshape(-1, 1, 1))
        return x + self.state[f"{name}.{behind}.bias"]


def _windows(x: np.ndarray, size: int, stride: int, fill: float) -> np.ndarray:
    """Windows of shape `(batch, channels, height, width, size, size)`."""
    pad = size // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    return windows[:, :, ::stride, ::stride]


def _convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    windows = _windows(x, kernel.shape[2], stride, 0.0)
    y = np.tensordot(windows, kernel, axes=((1, 4, 5), (1, 2, 3)))
    return y.transpose(0, 3, 1, 2)


def _max_pool(x: np.ndarray) -> np.ndarray:
    return _windows(x, 3, 2, -np.inf).max((4, 5))


def _average_pool(x: np.ndarray) -> np.ndarray:
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels, height // 2, 2, width // 2, 2).mean((3, 5))
