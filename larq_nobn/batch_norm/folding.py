"""Batch norm folded into what is in front of it, for inference."""

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._keras2 import with_sublayers
from larq_nobn.batch_norm.graph import (
    Call,
    Graph,
    apply,
    clone,
    copy_weights,
    is_batch_norm,
    normalizes_channels,
)
from larq_nobn.layers import ChannelAffine, ScaledWSConv2D

keras = tf.keras.layers

# Layers whose kernel takes a factor per output channel, and its name.
_KERNELS = {
    keras.Conv1D: "kernel",
    keras.Conv2D: "kernel",
    keras.Conv3D: "kernel",
    keras.Dense: "kernel",
    keras.DepthwiseConv2D: "depthwise_kernel",
}


def fold_batch_norm(model: tf.keras.Model) -> tf.keras.Model:
    r"""Make the same network without batch norm, for inference.

    \\[ \gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + b = s x + o \\]

    goes into the kernel and bias of the convolution or dense layer in front of it,
    if its kernel is real and nothing else reads it, and is a `ChannelAffine` otherwise
    (a binary kernel can take no factor). The outputs stay the same, up to rounding.

    Args:
        model: A functional model with batch norm, trained.

    Returns:
        A new model; the given one stays as it is.

    Raises:
        UserError: If the model is not functional, has no batch norm, or has one that
            is inside another layer or does not normalize the last axis.

    Example:
        >>> inference = fold_batch_norm(larq_zoo.sota.QuickNetSmall(weights=None))
    """
    graph = Graph(model)
    norms = [call for call in graph.calls if is_batch_norm(call.layer)]
    for call in graph.calls:
        _check(call)
    if not norms:
        raise UserError(
            "`model` must have batch norm",
            got=f"{model.name} without any",
            fix="use the model as it is",
        )
    folds = {}
    for call in graph.calls:
        reader = graph.only_reader(call)
        if reader is not None and is_batch_norm(reader.layer):
            shared = graph.times(call.layer) > 1 or graph.times(reader.layer) > 1
            if not shared and _takes_factor(call.layer):
                folds[call.layer] = reader.layer
    folded = set(folds.values())
    new_layers = {}

    def translate(call: Call, args, kwargs):
        layer = call.layer
        if layer in folded:
            return args[0]
        if layer in new_layers:
            return apply(new_layers[layer], *args, **kwargs)
        if layer in folds:
            new_layers[layer] = new = _with_bias(layer)
            output = apply(new, *args, **kwargs)
            _fold(layer, folds[layer], new)
            return output
        if is_batch_norm(layer):
            scale, offset = _affine(layer)
            new = ChannelAffine(name=layer.name, dtype=layer.dtype_policy.name)
            output = apply(new, *args)
            new.set_weights([scale, offset])
        else:
            new = clone(layer)
            output = apply(new, *args, **kwargs)
            copy_weights(layer, new)
        new_layers[layer] = new
        return output

    return graph.rebuild(translate, model.name)


def _check(call: Call) -> None:
    layer = call.layer
    if is_batch_norm(layer):
        if not normalizes_channels(layer, call.inputs[0].shape):
            raise UserError(
                "Batch norm must normalize the last axis",
                got=f"layer {layer.name!r} with axis={layer.axis}",
                fix="channels last",
            )
    elif any(map(is_batch_norm, with_sublayers(layer))):
        raise UserError(
            "Batch norm must be a layer of the model itself",
            got=f"layer {layer.name!r} of class {type(layer).__qualname__}, with batch "
            "norm inside",
            fix="call its layers in the model",
        )


def _takes_factor(layer: tf.keras.layers.Layer) -> bool:
    """Whether a factor per output channel can go into the layer's weights."""
    if getattr(layer, "activation", None) not in (None, tf.keras.activations.linear):
        return False
    if isinstance(layer, ScaledWSConv2D):
        return True
    if not isinstance(layer, tuple(_KERNELS)) or isinstance(
        layer, keras.Conv2DTranspose | keras.Conv3DTranspose | keras.Conv1DTranspose
    ):
        return False
    return _quantizer(layer) is None


def _quantizer(layer):
    names = ("kernel_quantizer", "depthwise_quantizer")
    return next((q for n in names if (q := getattr(layer, n, None)) is not None), None)


def _with_bias(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    """The clone of a layer, with a bias and nothing that would change its weights."""
    config = layer.get_config()
    config["use_bias"] = True
    for key in config:
        if key.endswith("_constraint"):
            config[key] = None
    return type(layer).from_config(config)


def _fold(layer, norm, new) -> None:
    scale, offset = _affine(norm)
    if layer.use_bias:
        offset = offset + scale * layer.bias.numpy()
    if isinstance(layer, ScaledWSConv2D):
        new.kernel.assign(layer.kernel)
        new.gain.assign(layer.gain.numpy() * scale)
    else:
        cls = next(cls for cls in _KERNELS if isinstance(layer, cls))
        kernel = getattr(layer, _KERNELS[cls]).numpy()
        if cls is keras.DepthwiseConv2D:
            scale = scale.reshape(kernel.shape[-2:])
        getattr(new, _KERNELS[cls]).assign(kernel * scale)
    new.bias.assign(offset)


def _affine(norm: keras.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset per channel, computed in float64."""
    variance, mean = (
        np.asarray(x, np.float64) for x in (norm.moving_variance, norm.moving_mean)
    )
    scale = (variance + norm.epsilon) ** -0.5
    if norm.scale:
        scale = scale * norm.gamma.numpy()
    offset = -mean * scale
    if norm.center:
        offset = offset + norm.beta.numpy()
    return scale, offset
