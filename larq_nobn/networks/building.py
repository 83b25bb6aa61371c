"""From a description to a Keras model, with random weights."""

from collections.abc import Callable

import tensorflow as tf

from larq_nobn._errors import UserError, one_of
from larq_nobn.models import FusedModel
from larq_nobn.networks.spec import FAMILIES, NetworkSpec


def build(
    network: NetworkSpec,
    *,
    input_tensor: tf.Tensor | None = None,
    include_top: bool = True,
    classifier_activation: str | Callable | None = "softmax",
    pooling: str | None = None,
) -> tf.keras.Model:
    """Build a network, with random weights.

    Args:
        network: What to build.
        input_tensor: Keras tensor to use as input, of the network's `input_shape`.
        include_top: As in `zoo.create_model`.
        classifier_activation: Activation on top; `None` gives logits.
        pooling: As in `zoo.create_model`.

    Returns:
        A functional `tf.keras.Model`.

    Raises:
        UserError: If an argument is wrong.
    """
    one_of("include_top", include_top, (True, False), fix="pass a bool")
    image = input_tensor
    if image is None:
        image = tf.keras.Input(network.input_shape, name="image")
    x = network.plan.features(image, network)
    one_of("pooling", pooling, (None, *_POOLINGS), fix="None for the feature map")
    if not include_top and pooling is not None:
        x = _POOLINGS[pooling](name="pool")(x)
    if include_top:
        x = _head(x, network.num_classes, classifier_activation)
    if input_tensor is not None:
        image = tf.keras.utils.get_source_inputs(image)
    return FusedModel(image, x, name=_model_name(network.name, network.norm))


_POOLINGS = {
    "avg": tf.keras.layers.GlobalAveragePooling2D,
    "max": tf.keras.layers.GlobalMaxPooling2D,
}


def name_and_norm(model: tf.keras.Model) -> tuple[str, str] | None:
    """Which network a model is, by the name that `build` gave it; else `None`."""
    variants = [(name, norm) for name, plan in FAMILIES.items() for norm in plan.norms]
    return {_model_name(*variant): variant for variant in variants}.get(model.name)


def _model_name(name: str, norm: str) -> str:
    return f"{name}_{norm}"


def check_tensor(
    tensor: tf.Tensor, input_shape: tuple | None
) -> tuple[tf.Tensor, tuple]:
    """The tensor as a Keras tensor, and its shape, which `input_shape` must equal."""
    try:
        if not tf.keras.backend.is_keras_tensor(tensor):
            tensor = tf.keras.Input(tensor=tensor, name="image")
    except ValueError as error:
        raise UserError(
            "`input_tensor` must be a Keras tensor",
            got=type(tensor).__name__,
            fix="for example tf.keras.Input((32, 32, 3))",
        ) from error
    shape = tuple(tensor.shape[1:])
    if input_shape is not None and tuple(input_shape) != shape:
        raise UserError(
            "`input_shape` and `input_tensor` must agree",
            got=f"input_shape={tuple(input_shape)}, input_tensor of shape {shape}",
            fix="leave out input_shape",
        )
    return tensor, shape


def _head(
    x: tf.Tensor, num_classes: int, activation: str | Callable | None
) -> tf.Tensor:
    """Global average pool, dense layer and activation."""
    bound = x.shape[-1] ** -0.5  # PyTorch's default for dense layers
    x = tf.keras.layers.GlobalAveragePooling2D("channels_last", name="pool")(x)
    x = tf.keras.layers.Dense(
        num_classes,
        kernel_initializer=tf.keras.initializers.RandomUniform(-bound, bound),
        bias_initializer=tf.keras.initializers.RandomUniform(-bound, bound),
        name="classifier",
    )(x)
    # Half precision is too coarse for a softmax over many classes and its logarithm.
    half = tf.as_dtype(x.dtype).size < 4
    try:
        layer = tf.keras.layers.Activation(
            activation, dtype="float32" if half else None, name="predictions"
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            "`classifier_activation` must be a Keras activation or None for logits",
            got=f"classifier_activation={activation!r}",
            fix="'softmax' or None",
        ) from error
    return layer(x)
