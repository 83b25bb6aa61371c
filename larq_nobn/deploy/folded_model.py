"""A model as the smallest graph of the same arithmetic: walk it layer by layer."""

from collections import Counter
from collections.abc import Sequence

import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._keras2 import (
    calls_of,
    check_functional,
    is_functional,
    named_calls_of,
    with_sublayers,
)
from larq_nobn.deploy import (  # noqa: F401  (they register)
    convolutions,
    merging,
    rewrites,
    separable,
)
from larq_nobn.deploy.geometry import upright, window_of
from larq_nobn.deploy.rules import Context, names_of, rewrite
from larq_nobn.deploy.targets import get_target
from larq_nobn.deploy.values import Value, stream


class FoldedModel(tf.Module):
    """A model's inference graph, everything foldable folded.

    Batch norm, α, β, gains, kernel magnitudes and learnable biases disappear into the
    multiplier and bias behind each convolution; what remains of a ReActNet block is a
    shift, a sign, a convolution, a sum and a PReLU. Folding computes in float64.

    Args:
        model: A built functional model, from inputs of fixed sizes.
        target: `"arm"`, `"xcore"` or `"tflite"`.
        allow_float: Whether layers that should be binary may stay float.

    Attributes:
        binary_layers: Names of the layers that became binary convolutions; known after
            the first call.
        float_layers: Why other layers with quantized inputs did not, by their names.

    Raises:
        UserError: If the model cannot be exported; the message says why.

    Example:
        >>> folded = FoldedModel(model)
        >>> logits = folded(images)
    """

    def __init__(
        self, model: tf.keras.Model, target: str = "arm", allow_float: bool = False
    ):
        super().__init__()
        check_model(model)
        self.model = model
        self.target = get_target(target)
        self.allow_float = allow_float
        self.binary_layers: list[str] = []
        self.float_layers: dict[str, str] = {}

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the inputs without the batch axis: height, width, channels."""
        return [tuple(x.shape[1:]) for x in self.model.inputs]

    def __call__(self, images: tf.Tensor | Sequence[tf.Tensor]):
        """Run the graph.

        Args:
            images: Tensor of shape `(batch, height, width, channels)`; or a list of
                them, if the model has several inputs.

        Returns:
            What the model's inference returns, several outputs as a list.
        """
        results = self.run(images, self._context())
        return results[0] if len(results) == 1 else results

    def run_listed(self, *images: tf.Tensor) -> list[tf.Tensor]:
        """Run the graph: one argument per input, a list of all outputs."""
        return self.run(images, self._context())

    def failures(self) -> list[tuple[str, str]]:
        """Go through the model without computing anything.

        Returns:
            Names of the layers that cannot be exported, and why.
        """
        context = self._context()
        context.failures = []
        # In a graph of its own, where nothing is computed.
        trace = tf.function(lambda *x: self.run(x, context), autograph=False)
        trace.get_concrete_function(
            *(tf.TensorSpec((1, *x.shape[1:]), x.dtype) for x in self.model.inputs)
        )
        return context.failures

    def _context(self) -> Context:
        turned = self.target.turned and gains_by_turning(self.model)
        return Context(self.target, self.allow_float, turned, names_of(self.model))

    def run(self, images, context: Context) -> list[tf.Tensor]:
        """Run the graph, as a context says."""
        inputs = [tf.convert_to_tensor(x) for x in tf.nest.flatten(images)]
        values = [stream(upright(x, context.turned)) for x in inputs]
        results = [
            upright(value.exact(), context.turned)
            for value in _walk(self.model, values, context)
        ]
        self.binary_layers = context.binary_layers
        self.float_layers = context.float_layers
        return results


def _walk(
    model: tf.keras.Model, inputs: Sequence[Value], context: Context
) -> list[Value]:
    uses = Counter(id(x) for call in calls_of(model) for x in call.inputs)
    uses.update(map(id, model.outputs))
    values = {}

    def keep(tensor, value):
        values[id(tensor)] = value.settled() if uses[id(tensor)] > 1 else value

    for tensor, value in zip(model.inputs, inputs, strict=True):
        keep(tensor, value)
    for call in calls_of(model):
        outputs = _outputs(call, [values[id(x)] for x in call.inputs], context)
        for tensor, value in zip(call.outputs, outputs, strict=True):
            keep(tensor, value)
    return [values[id(x)] for x in model.outputs]


def _outputs(call, inputs: Sequence[Value], context: Context) -> list[Value]:
    if is_functional(call.layer):
        return _walk(call.layer, inputs, context)
    try:
        return rewrite(call, inputs, context)
    except UserError as error:
        if context.failures is None:
            raise
        failure = (context.names[id(call.layer)], str(error))
        if failure not in context.failures:
            context.failures.append(failure)
        # Something of the right shapes, to go on with.
        shapes = [[1 if n is None else n for n in x.shape] for x in call.outputs]
        return [
            stream(tf.zeros(shape, x.dtype))
            for shape, x in zip(shapes, call.outputs, strict=True)
        ]


def gains_by_turning(model: tf.keras.Model) -> bool:
    """Whether any window has a padding that TensorFlow only knows the other way up."""
    for _, call in named_calls_of(model):
        layer, shape = call.layer, tuple(call.inputs[0].shape[1:])
        has_window = hasattr(layer, "strides") and hasattr(layer, "data_format")
        if has_window and len(shape) == 3 and None not in shape:
            window = window_of(layer, shape)
            if window.is_padded and not window.native and window.turned().native:
                return True
    return False


def check_model(model: tf.keras.Model) -> None:
    """Check that a model is one that can be exported.

    Raises:
        UserError: If it is not a built functional model from inputs of fixed sizes.
    """
    check_functional(model)
    for x in model.inputs:
        shape = tuple(x.shape[1:])
        if not shape or None in shape or not x.dtype.is_floating:
            raise UserError(
                "`model` must take numbers of a fixed shape, such as (height, width, "
                "channels)",
                got=f"input shape {shape} of {x.dtype.name} in {model.name}",
                fix="build it with input_shape=(height, width, channels) and copy the "
                "weights with zoo.transfer_weights",
            )


def check_float32(model: tf.keras.Model) -> None:
    """Check that a model computes in float32, as the runtimes do.

    Raises:
        UserError: If a layer computes in another type.
    """
    for layer in with_sublayers(model):
        if layer is not model and layer.compute_dtype not in (None, "float32"):
            raise UserError(
                "`model` must compute in float32",
                got=f"layer {layer.name!r} with dtype policy "
                f"{layer.dtype_policy.name!r}",
                fix="set the policy 'float32', build the model again and copy the "
                "weights with zoo.transfer_weights",
            )
