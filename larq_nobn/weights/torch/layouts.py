"""Weights from the published PyTorch networks, strictly by name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, first_line
from larq_nobn.networks import MobileNet, ResNet, place_of
from larq_nobn.weights.transfer import assign_checked


@dataclass(frozen=True)
class Layout:
    """How the published networks of one plan name their modules.

    Attributes:
        stem: What stands in front of the stem's names.
        block: A block's name, by the numbers in ours.
        parts: Our layer's part in its block -> the names in the block of the modules
            that hold the layer's weights.
        imagenet_kernel: Size of the ImageNet stem's kernel, if the other's differs.
    """

    stem: str
    block: Callable[..., str]
    parts: Mapping[str, tuple[str, ...]]
    imagenet_kernel: int | None = None


_RESNET = {
    "shift": ("move0",),
    "conv": ("binary_conv",),
    "conv_bn": ("bn1",),
    "downsample": ("downsample.1",),
    "downsample_bn": ("downsample.2",),
    "rprelu": ("move1", "prelu", "move2"),
}
# A&B BNN has no batch norm to tell apart from the convolution.
_ADD_AND_BIT = {("binary_conv",): ("conv1",)}
_MOBILE = {
    "shift1": ("move11",),
    "conv": ("binary_3x3",),
    "conv_bn": ("bn1",),
    "rprelu1": ("move12", "prelu1", "move13"),
    "shift2": ("move21",),
    "pointwise": ("binary_pw",),
    "pointwise_bn": ("bn2",),
    "pointwise1": ("binary_pw_down1",),
    "pointwise1_bn": ("bn2_1",),
    "pointwise2": ("binary_pw_down2",),
    "pointwise2_bn": ("bn2_2",),
    "rprelu2": ("move22", "prelu2", "move23"),
}
LAYOUTS = {
    ResNet.names: Layout("", lambda s, u: f"layer{s}.{u - 1}", _RESNET, 7),
    MobileNet.names: Layout("feature.0.", lambda b: f"feature.{b}", _MOBILE),
}


@dataclass(frozen=True)
class TorchEntry:
    """One tensor of a PyTorch state dict and the variable that it belongs to.

    Attributes:
        variable: The Keras variable.
        shape: PyTorch's shape.
        to_keras: Converts an array of that shape to the variable's shape.
        to_torch: The reverse.
    """

    variable: tf.Variable
    shape: tuple[int, ...]
    to_keras: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _kernel(v: tf.Variable) -> TorchEntry:
    """HWIO to OIHW; also the gain, (1, 1, 1, O) to (O, 1, 1, 1)."""
    height, width, inputs, outputs = v.shape
    return TorchEntry(
        v,
        (outputs, inputs, height, width),
        lambda a: a.transpose(2, 3, 1, 0),
        lambda a: a.transpose(3, 2, 0, 1),
    )


def _bias(v: tf.Variable) -> TorchEntry:
    shape = (1, v.shape[0], 1, 1)
    return TorchEntry(v, shape, lambda a: a.reshape(-1), lambda a: a.reshape(shape))


def _vector(v: tf.Variable) -> TorchEntry:
    return TorchEntry(v, tuple(v.shape), lambda a: a, lambda a: a)


def _matrix(v: tf.Variable) -> TorchEntry:
    return TorchEntry(v, tuple(v.shape[::-1]), np.transpose, np.transpose)


def _layer_entries(
    layer: tf.keras.layers.Layer, modules: tuple[str, ...]
) -> dict[str, TorchEntry]:
    """A layer's weights by their PyTorch keys."""
    name = modules[0]
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        return {
            f"{name}.weight": _vector(layer.gamma),
            f"{name}.bias": _vector(layer.beta),
            f"{name}.running_mean": _vector(layer.moving_mean),
            f"{name}.running_var": _vector(layer.moving_variance),
        }
    if isinstance(layer, tf.keras.layers.Dense):
        return {
            f"{name}.weight": _matrix(layer.kernel),
            f"{name}.bias": _vector(layer.bias),
        }
    if len(modules) == 3:
        slope = "L_alpha" if layer.power_of_two else "weight"
        return {
            f"{modules[0]}.bias": _bias(layer.bias_in),
            f"{modules[1]}.{slope}": _vector(layer.slope),
            f"{modules[2]}.bias": _bias(layer.bias_out),
        }
    if hasattr(layer, "kernel"):
        entries = {f"{name}.weight": _kernel(layer.kernel)}
        if hasattr(layer, "gain"):
            entries[f"{name}.gain"] = _kernel(layer.gain)
        return entries
    return {f"{name}.bias": _bias(layer.bias)}


def _modules(name: str, layout: Layout, add_and_bit: bool) -> tuple[str, ...] | None:
    """PyTorch's module names for one of our layers, by its name in the zoo."""
    stem = layout.stem
    top = {"stem": (f"{stem}conv1",), "stem_bn": (f"{stem}bn1",), "classifier": ("fc",)}
    place = place_of(name)
    if place is None:
        return top.get(name)
    modules = layout.parts.get(place.part)
    if add_and_bit:
        modules = _ADD_AND_BIT.get(modules, modules)
    block = layout.block(*place.numbers)
    return modules and tuple(f"{block}.{module}" for module in modules)


def torch_entries(model: tf.keras.Model) -> dict[str, TorchEntry]:
    """Map a zoo model's weights to the keys of the published PyTorch network.

    Args:
        model: A ReActNet of the zoo.

    Returns:
        Dict from PyTorch keys to entries.

    Raises:
        UserError: If the model has weights that no published network has.
    """
    places = [place_of(layer.name) for layer in model.layers]
    names = next((place.names for place in places if place is not None), None)
    layout = LAYOUTS.get(names)
    add_and_bit = any(getattr(layer, "power_of_two", False) for layer in model.layers)
    entries: dict[str, TorchEntry] = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        modules = layout and _modules(layer.name, layout, add_and_bit)
        if modules is None:
            raise UserError(
                "Only models of larq_nobn.zoo whose weights were published for "
                "PyTorch (the ReActNets) can load a state dict",
                got=f"{model.name}, whose layer {layer.name!r} has no counterpart",
                fix="build one with zoo.create_model('reactnet18' | 'reactnet34' | "
                "'reactnet_a' | 'abnet18' | 'abnet34' | 'abnet_a')",
            )
        entries.update(_layer_entries(layer, modules))
    return entries


def load_torch_state_dict(model: tf.keras.Model, state_dict: Mapping[str, Any]) -> None:
    """Load the weights of a published PyTorch network into its zoo twin.

    Takes the official "BNN - BN = ?" networks (all norms, both steps), liuzechun's
    ReActNet-18 and ReActNet-A, and A&B BNN's networks. Prefixes from DataParallel
    (`module.`), a wrapping `{"state_dict": ...}` and kernels stored flat are
    understood; everything else is strict. liuzechun's ReActNet-18 has the names and
    shapes of the official `bn` one but real downsample kernels: build it with
    `binary_downsample=False`.

    Args:
        model: A ReActNet or A&B BNN of the zoo, with the same norm.
        state_dict: Names to arrays; NumPy arrays or anything that converts to them.

    Raises:
        UserError: If entries are missing, unexpected, misshaped or not finite (the
            model is unchanged then), or the model is no such network of the zoo.

    Example:
        >>> state = torch.load("model.pth", map_location="cpu", weights_only=True)
        >>> load_torch_state_dict(model, state)
    """
    entries = torch_entries(model)
    values = {}
    for key, array in unwrap_state_dict(state_dict).items():
        # liuzechun's ReActNet-A calls its flat kernels "weights".
        key = re.sub(r"\.weights$", ".weight", key)
        entry = entries.get(key)
        if entry is not None and array.ndim == 2 and array.shape[1] == 1:
            if array.size == np.prod(entry.shape):
                array = array.reshape(entry.shape)
        if not key.endswith(".num_batches_tracked"):
            values[key] = array
    variables = {key: _InTorchShape(entry) for key, entry in entries.items()}
    assign_checked(variables, values, "The state dict")


class _InTorchShape:
    """A variable seen in PyTorch's layout, so that errors give PyTorch's shapes."""

    def __init__(self, entry: TorchEntry):
        self._entry = entry
        self.shape = entry.shape
        self.dtype = entry.variable.dtype

    def assign(self, array: np.ndarray) -> None:
        self._entry.variable.assign(self._entry.to_keras(array))


def unwrap_state_dict(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Remove wrappers and prefixes from a state dict, and convert it to arrays.

    Args:
        state_dict: As in `load_torch_state_dict`.

    Returns:
        Arrays by the keys of the bare network.

    Raises:
        UserError: If it is no state dict.
    """
    if isinstance(state_dict, Mapping) and isinstance(
        state_dict.get("state_dict"), Mapping
    ):
        state_dict = state_dict["state_dict"]
    if not isinstance(state_dict, Mapping):
        raise UserError(
            "`state_dict` must map names to arrays",
            got=type(state_dict).__name__,
            fix="pass what torch.load(path, weights_only=True) returns, or its "
            "['state_dict']",
        )
    arrays = {}
    for key, value in state_dict.items():
        try:
            if hasattr(value, "detach"):
                value = value.detach().cpu()
                # NumPy has no bfloat16.
                value = value.float() if "bfloat16" in str(value.dtype) else value
            array = np.asarray(value)
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            # Not for quantized, sparse, float8 and meta tensors.
            raise UserError(
                "`state_dict` must hold dense tensors of numbers",
                got=f"{key!r} of {getattr(value, 'dtype', type(value).__name__)} "
                f"({first_line(error)})",
                fix="save them by tensor.dequantize(), .to_dense() or .float()",
            ) from error
        if array.dtype == tf.bfloat16.as_numpy_dtype:
            array = array.astype(np.float32)
        if not isinstance(key, str) or array.dtype.kind not in "fiub":
            raise UserError(
                "`state_dict` must map names to arrays of numbers",
                got=f"{key!r} of {type(value).__name__}",
                fix="pass the state dict itself, not the checkpoint around it",
            )
        arrays[key.removeprefix("module.")] = array
    return arrays
