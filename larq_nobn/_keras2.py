"""Keras 2: its choice, and every private name of it that is used here.

After an upgrade, look here first. Larq is written for Keras 2. From TensorFlow 2.16 on,
`tf.keras` is Keras 3 unless `TF_USE_LEGACY_KERAS=1` is set and `tf_keras` is installed,
so the variable is set here, before anything touches `tf.keras` (TensorFlow resolves the
name lazily).
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if Path(sys.argv[0]).name == "larq-nobn":
    # Users of the command want its output, not TensorFlow's start-up log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if importlib.metadata.version("keras").startswith("3."):
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf

from larq_nobn._errors import UserError

TF_VERSION = tuple(int(part) for part in tf.__version__.split(".")[:2])
SUPPORTED_TF = ((2, 15), (2, 21))


def check_environment() -> None:
    """Check that `tf.keras` is the Keras 2 that Larq needs.

    Raises:
        ImportError: If `tf.keras` is Keras 3, or `tensorflow.keras` by being imported
            first, or `tf_keras` is missing.
    """
    try:
        version = getattr(tf.keras, "__version__", "2.15")
    except ImportError as error:
        # TensorFlow 2.15 includes Keras 2; only the variable makes it need tf_keras.
        unset = "unset TF_USE_LEGACY_KERAS, or " if TF_VERSION < (2, 16) else ""
        raise ImportError(
            f"TensorFlow {tf.__version__} needs the package tf_keras for Larq"
            f"{' where TF_USE_LEGACY_KERAS is set' if unset else ''}, which is not "
            f"installed. Fix: {unset}pip install 'tf_keras~={TF_VERSION[0]}."
            f"{TF_VERSION[1]}.0'."
        ) from error
    spec = importlib.util.find_spec("tensorflow.keras")
    if spec and "_tf_keras" in str(spec.origin):
        # TensorFlow made the choice when it was imported.
        raise ImportError(
            "Larq needs Keras 2, but TensorFlow was imported on Keras 3 before "
            "larq_nobn. Fix: import larq_nobn before tensorflow and keras_tuner, or "
            "set the environment variable TF_USE_LEGACY_KERAS=1."
        )
    if version.startswith("3."):
        raise ImportError(
            "Larq needs Keras 2, but tf.keras is Keras "
            f"{version}. Fix: set the environment variable TF_USE_LEGACY_KERAS=1 "
            "(or import larq_nobn before tf.keras is first used) and install tf_keras."
        )


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
    # Keras consumes each value as often as it occurs among the inputs.
    stacks = {str(id(x)): [values[id(x)]] * len(call.inputs) for x in call.inputs}
    return call.node.map_arguments(stacks)


def named_calls_of(
    model: tf.keras.Model, outer: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Call]]:
    """Go through a functional model's calls and those of the models inside of it.

    Args:
        model: The model.
        outer: Names of the models that it is inside of.

    Yields:
        Names such as `("encoder", "conv")`, and calls; those of inner models in place
        of the models' own.
    """
    for call in calls_of(model):
        path = (*outer, call.layer.name)
        if is_functional(call.layer):
            yield from named_calls_of(call.layer, path)
        else:
            yield path, call


def is_functional(model: object) -> bool:
    """Whether it is a functional model, or a Sequential one with a known input."""
    return bool(getattr(model, "_is_graph_network", False))


def check_functional(model: object) -> None:
    """Check that a model is functional or Sequential, and built.

    Raises:
        UserError: If it is not.
    """
    if not isinstance(model, tf.keras.Model):
        raise UserError(
            "`model` must be a Keras model",
            got=type(model).__name__,
            fix="load it with larq_nobn.saving.load_model",
        )
    if isinstance(model, tf.keras.Sequential) and not model.built:
        raise UserError(
            "`model` must be built",
            got=f"{model.name}, whose input shape is unknown",
            fix="call model.build(input_shape) or start with keras.Input",
        )
    if not is_functional(model):
        raise UserError(
            "`model` must be a functional or Sequential model, whose layers are known",
            got=f"{model.name}, a subclassed {type(model).__name__}",
            fix="build it from keras.Input with the functional API",
        )


def with_sublayers(layer: tf.keras.layers.Layer) -> list[tf.keras.layers.Layer]:
    """A layer and all that are inside of it, however deep."""
    return list(layer._flatten_layers())


def switch_off_autocast(layer: tf.keras.layers.Layer) -> None:
    """Let a layer see its inputs in the precision that they have."""
    layer._autocast = False


def is_variable(item: object) -> bool:
    """Whether an optimizer takes it for a variable, distributed ones included."""
    return isinstance(item, tf.Variable) or hasattr(item, "_unique_id")


def unchecked_learning_rate(optimizer: tf.keras.optimizers.Optimizer):
    """What an optimizer was given as its rate: a number, a variable or a schedule."""
    return getattr(optimizer, "_learning_rate", 0.0)


def moments_of(
    adam: tf.keras.optimizers.Adam, variable: tf.Variable
) -> tuple[tf.Variable, tf.Variable]:
    """Adam's moving averages of a variable's gradient and of its square."""
    index = adam._index_dict[adam._var_key(variable)]
    return adam._momentums[index], adam._velocities[index]


class OuterOptimizer(tf.keras.optimizers.Optimizer):
    """A Keras optimizer that has no state but that of the one inside of it.

    Public attributes are those of the one inside, read and set, but for `name`, for
    what a class defines and for what it sets before it calls this constructor.

    Args:
        optimizer: The one inside.
        name: Its name.
    """

    def __init__(self, optimizer: tf.keras.optimizers.Optimizer, name: str):
        own = {"name", *vars(self)}
        super().__init__(name=name)
        for attribute in {*vars(self)} - own:
            if not attribute.startswith("_"):
                delattr(self, attribute)
        # SavedModel looks for a counter by this name.
        self._iterations = optimizer.iterations
        self._optimizer = optimizer

    def __getattr__(self, name: str):
        if name.startswith("_") or "_optimizer" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._optimizer, name)

    def __setattr__(self, name: str, value) -> None:
        inner = vars(self).get("_optimizer")
        is_own = name.startswith("_") or name in vars(self) or hasattr(type(self), name)
        if is_own or not hasattr(inner, name):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    @property
    def is_built(self) -> bool:
        """Whether it knows its variables."""
        return getattr(self, "_built", False)

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Create the inner optimizer's state for these variables."""
        if not self.is_built:
            self._optimizer.build(var_list)
            self._build_index_dict(var_list)
            self._built = True

    def key_of(self, variable: tf.Variable):
        """What tells a variable from others, the same on all replicas."""
        return self._var_key(variable)

    def index_of(self, variable: tf.Variable) -> int | None:
        """Where a variable stands among the trained ones; frozen ones do not."""
        return self._index_dict.get(self._var_key(variable))

    def _create_iteration_variable(self):
        """None of its own: the inner optimizer counts."""


check_environment()

# What `x * 2 + 1` and `x[:, 1:]` become in a functional model.
_operators = importlib.import_module(
    f"{tf.keras.layers.Layer.__module__.partition('.')[0]}.src.layers.core.tf_op_layer"
)
TFOpLambda, SlicingOpLambda = _operators.TFOpLambda, _operators.SlicingOpLambda
