"""What is private in Keras 2 and used here: after an upgrade, look here first."""

from collections.abc import Callable

import tensorflow as tf

from larq_nobn._models import Call, calls_of


def is_scratch_graph(graph: tf.Graph) -> bool:
    """Whether a graph is the one in which Keras learns the shapes of outputs."""
    return graph.name.endswith("_scratch_graph")


def run_functional(
    model: tf.keras.Model, inputs, compute: Callable[[Call, dict], object]
):
    """Run a functional model, as Keras does, layer by layer.

    Args:
        model: The model.
        inputs: Its inputs.
        compute: Maps a call, and the tensors so far by the `id` of their Keras tensors,
            to the call's outputs (a tensor or a structure of them), or to `None` where
            nobody is going to ask for them.

    Returns:
        The model's outputs.
    """
    inputs = model._flatten_to_reference_inputs(inputs)
    tensors = {
        id(reference): model._conform_to_reference_input(x, ref_input=reference)
        for reference, x in zip(model.inputs, inputs, strict=True)
    }
    for call in calls_of(model):
        outputs = compute(call, tensors)
        if outputs is not None:
            for reference, y in zip(
                call.outputs, tf.nest.flatten(outputs), strict=True
            ):
                tensors[id(reference)] = y
    outputs = [tensors[id(reference)] for reference in model.outputs]
    return tf.nest.pack_sequence_as(model._nested_outputs, outputs)


def arguments_of(call: Call, values: dict[int, object]) -> tuple[tuple, dict]:
    """What a layer is called with.

    Args:
        call: The call.
        values: What stands for the Keras tensors, by their `id`.

    Returns:
        Positional and keyword arguments.
    """
    # Keras takes each value as often as it is an input.
    stacks = {str(id(x)): [values[id(x)]] * len(call.inputs) for x in call.inputs}
    return call.node.map_arguments(stacks)
