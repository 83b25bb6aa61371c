"""Where the rewrites are looked up, and what they share."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._keras2 import Call, named_calls_of
from larq_nobn.deploy.geometry import Window, window_of
from larq_nobn.deploy.targets import Target
from larq_nobn.deploy.values import Value


@dataclass
class Context:
    """What the rewrites of one network share.

    Attributes:
        target: What the graph is for.
        allow_float: Whether layers that should be binary may stay float.
        turned: Whether the images are turned; see `geometry`.
        names: The layers' names by their `id`; see `names_of`.
        call: The call that is being rewritten.
        binary_layers: Names of the layers that became binary convolutions.
        float_layers: Why layers with quantized inputs did not, by their names.
        signs: Signs that exist already, so that two convolutions share one.
        failures: Names and reasons of the layers that cannot be exported, if they are
            to be collected: `None` makes the first of them an error.
    """

    target: Target
    allow_float: bool
    turned: bool
    names: dict[int, str]
    call: Call | None = None
    binary_layers: list[str] = field(default_factory=list)
    float_layers: dict[str, str] = field(default_factory=dict)
    signs: dict[Value, tf.Tensor] = field(default_factory=dict)
    failures: list[tuple[str, str]] | None = None

    def window(self, layer: tf.keras.layers.Layer, shape: tuple[int, ...]) -> Window:
        """Return the window of a layer, as it lies on the images of this context."""
        window = window_of(layer, shape)
        is_turned = self.turned and len(shape) == 3
        return window.turned() if is_turned else window

    def scope(self, layer: tf.keras.layers.Layer) -> tf.name_scope:
        """Name operators after a layer, whenever they come to be."""
        return tf.name_scope(f"{self.names[id(layer)]}/")


# A layer with several outputs has a list of values.
Rewrite = Callable[
    [tf.keras.layers.Layer, Sequence[Value], Context], Value | list[Value]
]
_REWRITES: dict[type, Rewrite] = {}


def rewrites(*classes: type) -> Callable[[Rewrite], Rewrite]:
    """Register a function as the rewrite of some layer classes.

    The first line of its docstring says what becomes of them: the table of layers in
    `docs/deploy.md` is made of these.
    """

    def register(function: Rewrite) -> Rewrite:
        _REWRITES.update(dict.fromkeys(classes, function))
        return function

    return register


def registered() -> dict[Rewrite, list[type]]:
    """All rewrites and the layer classes that they are for."""
    classes: dict[Rewrite, list[type]] = {}
    for cls, function in _REWRITES.items():
        classes.setdefault(function, []).append(cls)
    return classes


def rewrite(call: Call, inputs: Sequence[Value], context: Context) -> list[Value]:
    """Return what a layer makes of its inputs, with as few operators as possible.

    Args:
        call: The call of a built Keras layer.
        inputs: One value per input of the layer.
        context: What the rewrites of one network share.

    Returns:
        One value per output.

    Raises:
        UserError: If the layer's class is unknown, its weights are not finite, or it is
            a binary layer that would stay float.
    """
    layer = call.layer
    # By exact class: a subclass may compute something different.
    function = _REWRITES.get(type(layer))
    if function is None:
        raise UserError(
            "Every layer must be one that the export knows (docs/deploy.md lists them)",
            got=f"layer {layer.name!r} of class "
            f"{type(layer).__module__}.{type(layer).__qualname__}",
            fix="build the model from these layers",
        )
    _check_layer(call)
    context.call = call
    with context.scope(layer):
        result = function(layer, inputs, context)
    return result if isinstance(result, list) else [result]


def _check_layer(call: Call) -> None:
    layer = call.layer
    for weight in layer.weights:
        if weight.dtype.is_floating and not np.all(np.isfinite(values_of(weight))):
            raise UserError(
                "Weights must be finite",
                got=f"NaN or infinity in {weight.name!r} of layer {layer.name!r}",
                fix="the training diverged; export an earlier checkpoint",
            )
    if getattr(layer, "data_format", None) == "channels_first":
        raise UserError(
            f"Layer {layer.name!r} must have channels last",
            got="data_format='channels_first'",
            fix="data_format='channels_last'",
        )
    if call.node.call_kwargs.get("training"):
        raise UserError(
            f"Layer {layer.name!r} must compute as at inference",
            got="a call with training=True",
            fix="call it without `training`, which fit and evaluate choose",
        )


def values_of(tensor: tf.Variable | tf.Tensor) -> np.ndarray:
    """Return a weight's values in float64, also while a graph is being built."""
    with tf.init_scope():
        return np.asarray(tensor, np.float64)


def _scope_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_-") or "layer"


def names_of(model: tf.keras.Model) -> dict[int, str]:
    """Name a model's layers, those of inner models by a path, for operators.

    Returns:
        Dict from the layers' `id` to names that TensorFlow allows.
    """
    names: dict[int, str] = {}
    for path, call in named_calls_of(model):
        names.setdefault(id(call.layer), "/".join(map(_scope_name, path)))
    return names
