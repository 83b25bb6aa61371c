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

    Args:
        input_shape: Height, width and channels; see `create_model`.
        input_tensor: Keras tensor to use as input.
        weights: `None`, the name of a dataset (`"imagenet"`), or a path.
        include_top: Whether to end in pooling and the classifier.
        num_classes: Number of classes.
        classifier_activation: Activation on top; `None` gives logits.
        alpha: Factor on the residual branches; by default the published one.
        binary_weights: `True` for binary activations and weights (the paper's step 2),
            `False` for binary activations only (step 1).
        stem: `"imagenet"` (strided) or `"cifar"`.

    Returns:
        A functional `tf.keras.Model`. Equal to
        `create_model({name!r}, norm={norm_name!r}, ...)`.

    Raises:
        UserError: If an argument is wrong, or the weights do not fit.
    """


# What they take, in this order; `create_model` has the defaults.
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
)
_SIGNATURE = inspect.signature(create_model)
_SIGNATURE = _SIGNATURE.replace(
    parameters=[_SIGNATURE.parameters[name] for name in _ARGUMENTS]
)


def _entry_point(stem_name: str, title: str, name: str, norm_name: str) -> Callable:
    suffix, norm = _NORMS[norm_name]

    def build(*args, **kwargs) -> tf.keras.Model:
        arguments = _SIGNATURE.bind(*args, **kwargs).arguments
        return create_model(name, norm=norm_name, **arguments)

    build.__signature__ = _SIGNATURE
    build.__name__ = build.__qualname__ = f"{stem_name}{suffix}"
    build.__doc__ = _DOC.format(title=title, norm=norm, name=name, norm_name=norm_name)
    return build


def _family(stem_name: str, title: str, name: str) -> list[Callable]:
    return [_entry_point(stem_name, title, name, norm) for norm in _NORMS]


ReActNetNoBN, ReActNetBN, ReActNetPlain = _family(
    "ReActNet", "ReActNet-A (arXiv 2003.03488)", "reactnet_a"
)
ReActNet18NoBN, ReActNet18BN, ReActNet18Plain = _family(
    "ReActNet18", "ReActNet-18 (arXiv 2003.03488 on the ResNet-18 plan)", "reactnet18"
)
ReActNet34NoBN, ReActNet34BN, ReActNet34Plain = _family(
    "ReActNet34", "ReActNet-34 (arXiv 2003.03488 on the ResNet-34 plan)", "reactnet34"
)
