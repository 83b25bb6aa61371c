"""Signal propagation: mean and variance of activations, block by block.

The plot of the normalizer-free papers (arXiv 2101.08692, Section 3): in a network that
keeps its variance in check the line stays flat or grows in small steps within a stage;
where batch norm was merely removed it runs away.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._figures import COLOURS, new_figure, save_figure
from larq_nobn._keras2 import is_functional
from larq_nobn.layers import RPReLU


def block_outputs(model: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """The layers that end a model's blocks.

    Args:
        model: A functional model.

    Returns:
        The layers that join feature maps (additions, concatenations, and others of
        several inputs, but no products), or the RPReLU right behind; in a model without
        any, its convolutions.

    Raises:
        UserError: If the model is not functional, or has neither.
    """
    if not is_functional(model):
        raise UserError(
            "A probe needs a functional or Sequential Keras model",
            got=type(model).__name__,
            fix="build the model by tf.keras.Model(inputs, outputs)",
        )
    joins = [layer for layer in model.layers if _joins(layer)]
    ends = [_followed_by(layer, RPReLU) or layer for layer in joins]
    convolutions = [x for x in model.layers if isinstance(x, tf.keras.layers.Conv2D)]
    if not ends and not convolutions:
        raise UserError(
            "A probe needs a model with residual blocks or convolutions",
            got=f"{model.name} with neither",
            fix="probe another model",
        )
    return list(dict.fromkeys(ends)) or convolutions


def _joins(layer: tf.keras.layers.Layer) -> bool:
    if isinstance(layer, tf.keras.layers.Multiply | tf.keras.Model):
        return False
    node = layer.inbound_nodes[0]
    outputs = tf.nest.flatten(node.outputs)
    inputs = tf.nest.flatten(node.keras_inputs)
    return len(inputs) > 1 and len(outputs) == 1 and outputs[0].shape.rank == 4


def _followed_by(layer: tf.keras.layers.Layer, kind: type):
    nodes = layer.outbound_nodes
    following = nodes[0].layer if len(nodes) == 1 else None
    return following if isinstance(following, kind) else None


def signal_propagation(
    model: tf.keras.Model, images: np.ndarray, training: bool = False
) -> list[dict[str, float | str]]:
    """Measure the activations at the end of each block.

    Args:
        model: A functional model.
        images: Preprocessed images of shape `(batch, height, width, channels)`.
        training: Whether batch norms use the batch's statistics.

    Returns:
        For each block a dict with the `layer`'s name, the `mean_squared` (of the
        channels' means) and the `variance` (mean over channels), as in the papers.

    Raises:
        UserError: As in `block_outputs`.
    """
    layers = block_outputs(model)
    probe = tf.keras.Model(model.inputs, [layer.output for layer in layers])
    outputs = probe(images, training=training)
    rows = []
    for layer, output in zip(layers, outputs, strict=True):
        mean, variance = tf.nn.moments(tf.cast(output, tf.float64), [0, 1, 2])
        rows.append(
            {
                "layer": layer.name,
                "mean_squared": float(tf.reduce_mean(tf.square(mean))),
                "variance": float(tf.reduce_mean(variance)),
            }
        )
    return rows


def draw_signal_propagation(
    measured: Mapping[str, list[dict[str, float | str]]], path: Path
) -> None:
    """Draw the signal-propagation plot of one or more models.

    Args:
        measured: For each model's name the result of `signal_propagation`.
        path: The PNG.
    """
    figure = new_figure(10, 4)
    quantities = {
        "variance": "channel variance",
        "mean_squared": "squared channel mean",
    }
    for axes, (key, title) in zip(
        figure.subplots(1, 2), quantities.items(), strict=True
    ):
        for (name, rows), colour in zip(measured.items(), COLOURS, strict=False):
            values = np.maximum([row[key] for row in rows], 1e-12)
            axes.plot(range(1, len(rows) + 1), values, ".-", color=colour, label=name)
        axes.set_yscale("log")
        axes.set_xlabel("block")
        axes.set_title(title)
        axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save_figure(figure, path)
