"""Where the rewrites are looked up, and what they share."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
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
        binary_layers: Names of the layers that became binary convolutions.
        signs: Signs that exist already, so that two convolutions share one.
    """

    target: Target
    allow_float: bool
    turned: bool
    binary_layers: list[str] = field(default_factory=list)
    signs: dict[Value, tf.Tensor] = field(default_factory=dict)

    def window(self, layer: tf.keras.layers.Layer, shape: tuple[int, ...]) -> Window:
        """Return the window of a layer, as it lies on the images of this context."""
        window = window_of(layer, shape)
        return window.turned() if self.turned else window


Rewrite = Callable[[tf.keras.layers.Layer, Sequence[Value], Context], Value]
_REWRITES: dict[type, Rewrite] = {}


def rewrites(*classes: type) -> Callable[[Rewrite], Rewrite]:
    """Register a function as the rewrite of some layer classes."""

    def register(function: Rewrite) -> Rewrite:
        _REWRITES.update(dict.fromkeys(classes, function))
        return function

    return register


def rewrite(
    layer: tf.keras.layers.Layer, inputs: Sequence[Value], context: Context
) -> Value:
    """Return what a layer makes of its inputs, with as few operators as possible.

    Args:
        layer: A built Keras layer.
        inputs: One value per input of the layer.
        context: What the rewrites of one network share.

    Raises:
        UserError: If the layer's class is unknown, its weights are not finite, or it is
            a binary layer that would stay float.
    """
    # By exact class: a subclass may compute something different.
    function = _REWRITES.get(type(layer))
    if function is None:
        known = ", ".join(sorted({cls.__qualname__ for cls in _REWRITES}))
        raise UserError(
            f"Every layer must be one that the export knows ({known})",
            got=f"layer {layer.name!r} of class "
            f"{type(layer).__module__}.{type(layer).__qualname__}",
            fix="build the model from these layers, without models inside the model",
        )
    for weight in layer.weights:
        if not np.all(np.isfinite(values_of(weight))):
            raise UserError(
                "Weights must be finite",
                got=f"NaN or infinity in {weight.name!r} of layer {layer.name!r}",
                fix="the training diverged; export an earlier checkpoint",
            )
    with scope(layer):
        return function(layer, inputs, context)


def values_of(tensor: tf.Variable | tf.Tensor) -> np.ndarray:
    """Return a weight's values in float64, also while a graph is being built."""
    with tf.init_scope():
        return np.asarray(tensor, np.float64)


def scope_name(layer: tf.keras.layers.Layer) -> str:
    """Return a layer's name as TensorFlow allows it in the names of operators."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", layer.name).lstrip("_-") or "layer"


def scope(layer: tf.keras.layers.Layer) -> tf.name_scope:
    """Name operators after a layer, whenever they come to be."""
    return tf.name_scope(f"{scope_name(layer)}/")
