"""Named entry points, in the manner of larq-zoo and keras.applications."""

import inspect
from collections.abc import Callable

import tensorflow as tf

from larq_nobn.zoo.models import create_model

_NORMS = {
    "free": ("NoBN", 'without batch norm, by the method of "BNN - BN = ?"'),
    "batch": ("BN", "with batch norm, the twin to compare with"),
    "none": ("Plain", "with batch norm simply removed, to show what the method adds"),
}
_DOC = """{title} {norm}.

    What is `None` is what the weights are for; see `create_model`.

    Args:
        input_shape: Height, width and channels.
        input_tensor: Keras tensor to use as input.
        weights: `None`, the name of a dataset (`"imagenet"`), or a path.
        include_top: Whether to end in pooling and the classifier.
        num_classes: Number of classes.
        classifier_activation: Activation on top; `None` gives logits.
        alpha: Factor on the residual branches; by default the published one.
        binary_weights: `True` for binary activations and weights (the paper's step 2),
            `False` for binary activations only (step 1).
        stem: `"imagenet"` (strided) or `"cifar"`.
        width: Channels of the first stage.
        pooling: `"avg"`, `"max"` or `None`, for a network without top.

    Returns:
        A functional `tf.keras.Model`. Equal to
        `create_model({name!r}, norm={norm_name!r}, ...)`.

    Raises:
        UserError: If an argument is wrong, or the weights do not fit.
    """


# Their arguments, in this order; `create_model` has the defaults.
_ARGUMENTS = (
    "input_shape",
    "input_tensor",
    "weights",
    "include_top",
    "num_classes",
    "classifier_activation",
    "alpha",
    "binary_weights",
    "stem",
    "width",
    "pooling",
)
_SIGNATURE = inspect.signature(create_model)
_PARAMETERS = {**_SIGNATURE.parameters}
_PARAMETERS["weights"] = _PARAMETERS["weights"].replace(default=None)
_SIGNATURE = _SIGNATURE.replace(parameters=[_PARAMETERS[name] for name in _ARGUMENTS])


def _entry_point(function: str, title: str, name: str, norm_name: str) -> Callable:
    _, norm = _NORMS[norm_name]

    def build(*args, **kwargs) -> tf.keras.Model:
        arguments = _SIGNATURE.bind(*args, **kwargs).arguments
        return create_model(name, norm=norm_name, **arguments)

    build.__signature__ = _SIGNATURE
    build.__name__ = build.__qualname__ = function
    build.__doc__ = _DOC.format(title=title, norm=norm, name=name, norm_name=norm_name)
    return build


def _family(stem_name: str, title: str, name: str) -> list[Callable]:
    return [
        _entry_point(f"{stem_name}{suffix}", title, name, norm)
        for norm, (suffix, _) in _NORMS.items()
    ]


ReActNetNoBN, ReActNetBN, ReActNetPlain = _family(
    "ReActNet", "ReActNet-A (arXiv 2003.03488)", "reactnet_a"
)
ReActNet18NoBN, ReActNet18BN, ReActNet18Plain = _family(
    "ReActNet18", "ReActNet-18 (arXiv 2003.03488 on the ResNet-18 plan)", "reactnet18"
)
ReActNet34NoBN, ReActNet34BN, ReActNet34Plain = _family(
    "ReActNet34", "ReActNet-34 (arXiv 2003.03488 on the ResNet-34 plan)", "reactnet34"
)
ABNet18, ABNet34, ABNetA = (
    _entry_point(
        f"ABNet{suffix}", f"A&B BNN, {suffix} (arXiv 2403.03739)", name, "free"
    )
    for suffix, name in (("18", "abnet18"), ("34", "abnet34"), ("A", "abnet_a"))
)
