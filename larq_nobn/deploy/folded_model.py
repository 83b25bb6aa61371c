"""A model as the smallest graph of the same arithmetic: walk it layer by layer."""

from collections import Counter

import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._keras2 import calls_of, check_functional
from larq_nobn.deploy import convolutions, rewrites  # noqa: F401  (they register)
from larq_nobn.deploy.geometry import turn, window_of
from larq_nobn.deploy.rules import Context, rewrite
from larq_nobn.deploy.targets import get_target
from larq_nobn.deploy.values import stream


class FoldedModel(tf.Module):
    """A model's inference graph, everything foldable folded.

    Batch norm, α, β, gains, kernel magnitudes and learnable biases disappear into the
    multiplier and bias behind each convolution; what remains of a ReActNet block is a
    shift, a sign, a convolution, a sum and a PReLU. Folding computes in float64.

    Args:
        model: A built functional model of one image input and one output.
        target: `"arm"`, `"xcore"` or `"tflite"`.
        allow_float: Whether layers that should be binary may stay float.

    Attributes:
        binary_layers: Names of the layers that became binary convolutions; known after
            the first call.

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

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return tuple(self.model.inputs[0].shape[1:])

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Run the graph.

        Args:
            images: Tensor of shape `(batch, height, width, channels)`.

        Returns:
            What the model's inference returns.
        """
        images = tf.convert_to_tensor(images)
        turned = self.target.turned and _gains_by_turning(self.model)
        context = Context(self.target, self.allow_float, turned)
        values = {id(self.model.inputs[0]): stream(turn(images) if turned else images)}
        uses = _uses(self.model)
        for call in calls_of(self.model):
            value = rewrite(call.layer, [values[id(x)] for x in call.inputs], context)
            output = id(call.outputs[0])
            values[output] = value.settled() if uses[output] > 1 else value
        result = values[id(self.model.outputs[0])].exact()
        self.binary_layers = context.binary_layers
        return turn(result) if turned and result.shape.rank == 4 else result


def _uses(model: tf.keras.Model) -> Counter:
    uses = Counter(id(x) for call in calls_of(model) for x in call.inputs)
    uses[id(model.outputs[0])] += 1
    return uses


def _gains_by_turning(model: tf.keras.Model) -> bool:
    """Whether any window has a padding that TensorFlow only knows the other way up."""
    for call in calls_of(model):
        layer = call.layer
        if hasattr(layer, "strides") and hasattr(layer, "data_format"):
            window = window_of(layer, tuple(call.inputs[0].shape[1:]))
            if window.is_padded and not window.native and window.turned().native:
                return True
    return False


def check_model(model: tf.keras.Model) -> None:
    """Check that a model is one that can be exported.

    Raises:
        UserError: If it is not a built functional model from one image of fixed size to
            one output.
    """
    check_functional(model)
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        if len(tensors) != 1:
            raise UserError(
                f"`model` must have one {kind}",
                got=f"{len(tensors)} in {model.name}",
                fix="export a model of one image and one output",
            )
    shape = tuple(model.inputs[0].shape[1:])
    if len(shape) != 3 or None in shape:
        raise UserError(
            "`model` must take images of a fixed (height, width, channels)",
            got=f"input shape {shape} in {model.name}",
            fix="build it with input_shape=(height, width, channels) and copy the "
            "weights with zoo.transfer_weights",
        )


def check_float32(model: tf.keras.Model) -> None:
    """Check that a model computes in float32, as the runtimes do.

    Raises:
        UserError: If a layer computes in another type.
    """
    for layer in model.layers:
        if layer.compute_dtype not in (None, "float32"):
            raise UserError(
                "`model` must compute in float32",
                got=f"layer {layer.name!r} with dtype policy "
                f"{layer.dtype_policy.name!r}",
                fix="set the policy 'float32', build the model again and copy the "
                "weights with zoo.transfer_weights",
            )
