"""Every network of the zoo, with its weights, by one function."""

from collections.abc import Callable

import tensorflow as tf

from larq_nobn import networks
from larq_nobn import weights as zoo_weights
from larq_nobn.networks import FAMILIES, NetworkSpec, check_tensor


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return list(FAMILIES)


def create_model(
    name: str,
    *,
    norm: str = "free",
    binary_weights: bool = True,
    binary_downsample: bool = True,
    stem: str = "imagenet",
    alpha: float | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    num_classes: int = 1000,
    include_top: bool = True,
    classifier_activation: str | Callable | None = "softmax",
    weights: str | None = None,
    width: int | None = None,
    units: int | None = None,
    surrogate: str | None = None,
    binary_activations: bool = True,
) -> tf.keras.Model:
    """Build a binary network of the zoo.

    Args:
        name: One of `list_models()`.
        norm: `"free"` for the method of "BNN - BN = ?" (arXiv 2104.08215), `"batch"`
            for the twin with batch norm, `"none"` for batch norm simply removed.
        binary_weights: `True` for binary activations and weights (the paper's step 2),
            `False` for binary activations only (step 1). Both have the same weights.
        binary_downsample: Whether the 1×1 convolutions on shortcuts have binary weights
            where the others do. `False` is liuzechun's ReActNet-18.
        stem: `"imagenet"` (strided) or `"cifar"` (stride 1, no pooling).
        alpha: Factor on the residual branches of a BN-free network, Section 3.1; by
            default the published one, 0.2 (A&B BNN: 0.25).
        input_shape: Height, width and channels, by default `(224, 224, 3)` or, with
            the CIFAR stem, `(32, 32, 3)`. Height and width must be divisible by the
            product of the network's strides, or `None`.
        input_tensor: Keras tensor to use as input.
        num_classes: Number of classes.
        include_top: Whether to end in pooling and the classifier (the layer
            `"classifier"`); the last feature map otherwise.
        classifier_activation: Activation on top; `None` gives logits.
        weights: `None` for random initialization, the name of a dataset or of a bundle
            for published weights, or the path of a weights file or saved model.
        width: Channels of the first stage, for smaller or larger networks.
        units: Residual units in each stage, for shallower or deeper networks; by
            default the published plan. Only the networks on the ResNet plan take it.
        surrogate: Sign of the activations, by the pseudo-gradient that it trains with:
            `"approx_sign"` (the paper's), `"sigmoid_sign"` (A&B BNN's), `"ste_sign"` or
            `"swish_sign"`. The forward pass is the same; by default the published one.
        binary_activations: `False` for the real-valued twin: no signs, and real weights
            whatever `binary_weights` says; what binarization costs is measured by it.

    Returns:
        A functional `tf.keras.Model` from images, preprocessed by
        `zoo.preprocess_input`, to class probabilities of shape `(batch, num_classes)`.

    Raises:
        UserError: If an argument is wrong, or the weights do not fit.

    Example:
        >>> model = create_model("reactnet18", stem="cifar", num_classes=10)
    """
    if input_tensor is not None:
        input_tensor, input_shape = check_tensor(input_tensor, input_shape)
    network = NetworkSpec(
        name,
        norm=norm,
        binary_weights=binary_weights,
        binary_downsample=binary_downsample,
        stem=stem,
        alpha=alpha,
        width=width,
        units=units,
        input_shape=input_shape,
        num_classes=num_classes,
        surrogate=surrogate,
        binary_activations=binary_activations,
    )
    model = networks.build(
        network,
        input_tensor=input_tensor,
        include_top=include_top,
        classifier_activation=classifier_activation,
    )
    zoo_weights.load(model, weights, network, include_top)
    return model
