"""A functional model, call by call, and how to make another of it."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._keras2 import Call, arguments_of, calls_of, check_functional
from larq_nobn.models import FusedModel

Layer = tf.keras.layers.Layer


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the model that is being made.

    Attributes:
        tensor: The Keras tensor.
        example: What it is for the example images; `None` if there are none.
    """

    tensor: tf.Tensor
    example: tf.Tensor | None = None


class Graph:
    """The calls of a functional model in the order of their execution.

    Args:
        model: The model.

    Attributes:
        calls: All calls but those of input layers.

    Raises:
        UserError: If the model is not a functional one.
    """

    def __init__(self, model: tf.keras.Model):
        check_functional(model)
        self.model = model
        self.calls = list(calls_of(model))
        self._uses = Counter(
            id(tensor) for call in self.calls for tensor in call.inputs
        )
        self._uses.update(id(tensor) for tensor in model.outputs)
        self._times = Counter(id(call.layer) for call in self.calls)

    def times(self, layer: Layer) -> int:
        """How often the model calls a layer."""
        return self._times[id(layer)]

    def only_reader(self, call: Call) -> Call | None:
        """The call that reads the output of another, if nothing else does."""
        (output,) = call.outputs if len(call.outputs) == 1 else (None,)
        if output is None or self._uses[id(output)] != 1:
            return None
        for other in self.calls:
            if any(tensor is output for tensor in other.inputs):
                return other
        return None

    def above(self) -> dict[int, frozenset[Call]]:
        """For each tensor's id the calls that it depends on."""
        above = {id(tensor): frozenset() for tensor in self.model.inputs}
        for call in self.calls:
            calls = frozenset().union(*(above[id(x)] for x in call.inputs), [call])
            above.update(dict.fromkeys(map(id, call.outputs), calls))
        return above

    def rebuild(
        self,
        translate: Callable[[Call, tuple, dict], object],
        name: str,
        examples: Sequence[tf.Tensor] | None = None,
    ) -> tf.keras.Model:
        """Make another model.

        Args:
            translate: Gets a call with its arguments, each Keras tensor in them a
                `Value`, and returns the `Value` (or structure of values) in the place
                of its output.
            name: The name of the new model.
            examples: What to feed to the model's inputs meanwhile.

        Returns:
            The model.
        """
        values = {}
        inputs = []
        for i, tensor in enumerate(self.model.inputs):
            new = tf.keras.Input(
                tensor.shape[1:],
                dtype=tensor.dtype,
                name=tensor.node.layer.name,
            )
            inputs.append(new)
            values[id(tensor)] = Value(new, examples[i] if examples else None)
        for call in self.calls:
            args, kwargs = arguments_of(call, values)
            outputs = tf.nest.flatten(translate(call, args, kwargs))
            for tensor, value in zip(call.outputs, outputs, strict=True):
                values[id(tensor)] = value
        outputs = [values[id(tensor)].tensor for tensor in self.model.outputs]
        return FusedModel(
            inputs if len(inputs) > 1 else inputs[0],
            outputs if len(outputs) > 1 else outputs[0],
            name=name,
        )


def apply(layer: Layer, *args, **kwargs):
    """Call a layer on values, or structures of values."""
    tensors = layer(*part("tensor", args), **part("tensor", kwargs))
    if not any(
        isinstance(x, Value) and x.example is not None
        for x in tf.nest.flatten((args, kwargs))
    ):
        return tf.nest.map_structure(Value, tensors)
    examples = layer(*part("example", args), **part("example", kwargs))
    return tf.nest.map_structure(Value, tensors, examples)


def part(attribute: str, structure):
    """Replace the values in a structure by their `"tensor"` or `"example"`."""
    return tf.nest.map_structure(
        lambda x: getattr(x, attribute) if isinstance(x, Value) else x, structure
    )


def clone(layer: Layer) -> Layer:
    """Make a layer with the same arguments and, once called, room for its weights.

    Raises:
        UserError: If the layer cannot be made again from its `get_config()`.
    """
    try:
        with warnings.catch_warnings():
            # Keras warns about initializers that are functions, such as QuickNet's.
            warnings.filterwarnings("ignore", "The `keras.initializers.serialize")
            return type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(
            "Every layer must be one that Keras can make again",
            got=f"layer {layer.name!r} of class {type(layer).__qualname__} ({error})",
            fix="give the class a get_config() that returns its constructor's "
            "arguments",
        ) from error


def copy_weights(source: Layer, target: Layer) -> None:
    """Copy the weights of a layer to its clone."""
    if source.weights:
        target.set_weights(source.get_weights())


def channel_moments(example: tf.Tensor) -> tuple[np.ndarray, float]:
    """Return each channel's mean, and the root of the mean of the channels' variances.

    Channels are the last axis; moments are over all others.
    """
    values = np.asarray(tf.cast(example, tf.float64))
    values = values.reshape(-1, values.shape[-1])
    return values.mean(axis=0), float(np.sqrt(values.var(axis=0).mean()))


def is_batch_norm(layer: Layer) -> bool:
    """Whether a layer is a batch norm."""
    return isinstance(layer, tf.keras.layers.BatchNormalization)


def normalizes_channels(layer: Layer, shape: tf.TensorShape) -> bool:
    """Whether a batch norm's axis is the last one."""
    axis = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return list(axis) in ([-1], [len(shape) - 1])
