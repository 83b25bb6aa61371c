"""Every network of the zoo, with its weights, by one function."""

import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import tensorflow as tf

from larq_nobn import networks
from larq_nobn import weights as zoo_weights
from larq_nobn._errors import UserError
from larq_nobn.networks import FAMILIES, check_tensor
from larq_nobn.weights.choosing import card_named, card_of, choose


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return list(FAMILIES)


def create_model(
    name: str,
    *,
    norm: str = "free",
    binary_weights: bool = True,
    binary_downsample: bool = True,
    stem: str | None = None,
    alpha: float | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    num_classes: int | None = None,
    include_top: bool = True,
    classifier_activation: str | Callable | None = "softmax",
    weights: str | os.PathLike | None = ...,
    width: int | None = None,
    units: int | None = None,
    surrogate: str | None = None,
    binary_activations: bool = True,
    pooling: str | None = None,
) -> tf.keras.Model:
    """Build a binary network of the zoo.

    What is `None` is what the weights are for; without weights, what is said below.

    Args:
        name: One of `list_models()`; or the name of a bundle, such as
            `"reactnet18_free_cifar10"`, which is that network with its weights.
        norm: `"free"` for the method of "BNN - BN = ?" (arXiv 2104.08215), `"batch"`
            for the twin with batch norm, `"none"` for batch norm simply removed.
        binary_weights: `True` for binary activations and weights (the paper's step 2),
            `False` for binary activations only (step 1). Both have the same weights.
        binary_downsample: Whether the 1×1 convolutions on shortcuts have binary weights
            where the others do. `False` is liuzechun's ReActNet-18.
        stem: `"imagenet"` (strided, the default) or `"cifar"` (stride 1, no pooling).
        alpha: Factor on the residual branches of a BN-free network, Section 3.1; by
            default the published one, 0.2 (A&B BNN: 0.25).
        input_shape: Height, width and channels, by default `(224, 224, 3)` or, with
            the CIFAR stem, `(32, 32, 3)`. Height and width must be divisible by the
            product of the network's strides, or `None`.
        input_tensor: Keras tensor to use as input.
        num_classes: Number of classes, by default 1000.
        include_top: Whether to end in pooling and the classifier (the layer
            `"classifier"`); the last feature map otherwise.
        classifier_activation: Activation on top; `None` gives logits.
        weights: `None` for random initialization, the name of a dataset or of a bundle
            for published weights, `hf://OWNER/REPOSITORY[@REVISION]` for a bundle on
            the Hugging Face hub, or the path of a bundle, a weights file or saved
            model. Behind a name, `:full` asks for latent weights. By default `None`,
            or the bundle's own behind the name of one.
        width: Channels of the first stage, for smaller or larger networks.
        units: Residual units in each stage, for shallower or deeper networks; by
            default the published plan. Only the networks on the ResNet plan take it.
        surrogate: Sign of the activations, by the pseudo-gradient that it trains with:
            `"approx_sign"` (the paper's), `"sigmoid_sign"` (A&B BNN's), `"ste_sign"` or
            `"swish_sign"`. The forward pass is the same; by default the published one.
        binary_activations: `False` for the real-valued twin: no signs, and real weights
            whatever `binary_weights` says; what binarization costs is measured by it.
        pooling: What ends a network without top: `"avg"`, `"max"`, or `None` for the
            feature map.

    Returns:
        A functional `tf.keras.Model` from images, preprocessed by
        `zoo.preprocess_input`, to class probabilities of shape `(batch, num_classes)`.

    Raises:
        UserError: If an argument is wrong, or the weights do not fit.

    Warns:
        UserWarning: If only a part of the weights is used; or if weights of exactly
            this network are not published, but of a BN-free relative on the same plan,
            which is then returned.

    Example:
        >>> model = create_model("reactnet18", stem="cifar", num_classes=10)
    """
    if input_tensor is not None:
        input_tensor, input_shape = check_tensor(input_tensor, input_shape)
    given = {
        "norm": norm,
        "binary_weights": binary_weights,
        "binary_downsample": binary_downsample,
        "binary_activations": binary_activations,
    }
    left_open = {
        "stem": stem,
        "alpha": alpha,
        "width": width,
        "units": units,
        "input_shape": input_shape,
        "num_classes": num_classes,
        "surrogate": surrogate,
    }
    given |= {key: value for key, value in left_open.items() if value is not None}
    is_bundle = isinstance(name, str) and name not in FAMILIES
    card = card_named(name) if is_bundle else None
    if card is not None:
        # Leave out what the bundle's name already says.
        own = {f.name: getattr(card.network, f.name) for f in fields(card.network)}
        defaults = create_model.__kwdefaults__
        said = {k: v for k, v in given.items() if v != defaults[k]}
        given, name = {**own, **said}, own.pop("name")
        given.pop("name")
        weights = card.dataset if weights is ... else weights
    weights = None if weights is ... else weights
    network = choose(name, weights, given)
    model = networks.build(
        network,
        input_tensor=input_tensor,
        include_top=include_top,
        classifier_activation=classifier_activation,
        pooling=pooling,
    )
    zoo_weights.load(model, weights, network, include_top)
    return model


def load(bundle: str | os.PathLike, **kwargs: Any) -> tf.keras.Model:
    """Build a published network with its weights.

    Args:
        bundle: The name of a bundle, such as `"reactnet18_free_cifar10"`, its folder,
            or its address on the hub, `hf://OWNER/REPOSITORY[@REVISION]`.
        **kwargs: As in `create_model`, such as `include_top` or `num_classes`.

    Returns:
        The model, as `create_model` returns it.

    Raises:
        UserError: If there is no such bundle, or an argument is wrong.

    Example:
        >>> model = load("reactnet18_free_cifar10")
    """
    is_path = isinstance(bundle, (str, os.PathLike)) and str(bundle)
    card = card_of(bundle) if is_path else None
    if card is None:
        raise UserError(
            "`bundle` must be a published model's name, folder or hf:// address",
            got=repr(bundle),
            fix="see zoo.list_weights()",
        )
    is_name = card.folder_name == str(bundle) and not Path(bundle).exists()
    weights = card.dataset if is_name else bundle
    return create_model(**{**asdict(card.network), "weights": weights, **kwargs})
