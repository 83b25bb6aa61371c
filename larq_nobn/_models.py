"""Functional models, call by call."""

from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf

from larq_nobn._errors import UserError


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer.

    Attributes:
        layer: The layer.
        node: Keras's record of the call.
        inputs: The Keras tensors that it reads.
        outputs: The Keras tensors that it makes.
    """

    layer: tf.keras.layers.Layer
    node: object
    inputs: tuple[tf.Tensor, ...]
    outputs: tuple[tf.Tensor, ...]


def calls_of(model: tf.keras.Model) -> Iterator[Call]:
    """Go through a functional model's calls, in the order of their execution.

    Those of input layers are left out.
    """
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            if not node.is_input:
                yield Call(
                    node.layer,
                    node,
                    tuple(tf.nest.flatten(node.keras_inputs)),
                    tuple(tf.nest.flatten(node.outputs)),
                )


def check_functional(model: object) -> None:
    """Check that a model is functional or Sequential, and built.

    Raises:
        UserError: If it is not.
    """
    if not isinstance(model, tf.keras.Model):
        raise UserError(
            f"`model` must be a Keras model. Received: {type(model).__name__}. Fix: "
            "load it with larq_nobn.saving.load_model."
        )
    if isinstance(model, tf.keras.Sequential) and not model.built:
        raise UserError(
            f"`model` must be built. Received: {model.name}, whose input shape is "
            "unknown. Fix: call model.build(input_shape) or start with keras.Input."
        )
    # Keras's own mark of functional models; true for Sequential ones with an input.
    if not getattr(model, "_is_graph_network", False):
        raise UserError(
            "`model` must be a functional or Sequential model, whose layers are known. "
            f"Received: {model.name}, a subclassed {type(model).__name__}. Fix: build "
            "it from keras.Input with the functional API."
        )
