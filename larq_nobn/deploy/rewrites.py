"""What becomes of each layer but convolutions: one short function per class."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from larq_nobn import layers
from larq_nobn._errors import UserError
from larq_nobn._keras2 import arguments_of
from larq_nobn.deploy.geometry import upright
from larq_nobn.deploy.rules import Context, rewrites, values_of
from larq_nobn.deploy.values import Value, constant, stream

keras = tf.keras.layers
Layer = tf.keras.layers.Layer


@rewrites(
    keras.Dropout,
    keras.SpatialDropout1D,
    keras.SpatialDropout2D,
    keras.AlphaDropout,
    keras.GaussianDropout,
    keras.GaussianNoise,
    keras.ActivityRegularization,
    keras.RandomBrightness,
    keras.RandomContrast,
    keras.RandomFlip,
    keras.RandomRotation,
    keras.RandomTranslation,
    keras.RandomZoom,
    keras.RandomHeight,
    keras.RandomWidth,
    keras.Identity,
)
def _identity(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Nothing: they pass on their input at inference."""
    return inputs[0]


@rewrites(layers.Scale)
def _scale(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Folded."""
    return inputs[0].affine(layer.factor)


@rewrites(layers.ChannelAffine)
def _channel_affine(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Folded."""
    return inputs[0].affine(values_of(layer.scale), values_of(layer.offset))


@rewrites(layers.LearnableBias)
def _learnable_bias(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Folded."""
    return inputs[0].affine(offset=values_of(layer.bias))


@rewrites(keras.BatchNormalization)
def _batch_norm(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Folded; `axis` must be the channels."""
    if list(layer.axis) not in ([-1], [len(inputs[0].shape)]):
        raise UserError(
            f"Layer {layer.name!r} must normalize channels",
            got=f"axis={list(layer.axis)}",
            fix="BatchNormalization(axis=-1)",
        )
    scale = (values_of(layer.moving_variance) + layer.epsilon) ** -0.5
    if layer.scale:
        scale = scale * values_of(layer.gamma)
    offset = -values_of(layer.moving_mean) * scale
    if layer.center:
        offset = offset + values_of(layer.beta)
    return inputs[0].affine(scale, offset)


@rewrites(keras.Rescaling)
def _rescaling(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """Folded."""
    scale, offset = (np.asarray(n, float) for n in (layer.scale, layer.offset))
    return inputs[0].affine(scale, offset)


@rewrites(keras.Normalization)
def _normalization(
    layer: Layer, inputs: Sequence[Value], context: Context
) -> Value | list[Value]:
    """Folded by channel, else a division and a sum."""
    mean, variance = values_of(layer.mean), values_of(layer.variance)
    if mean.size != mean.shape[-1]:
        return exactly(layer, inputs, context)
    mean = mean.reshape(-1)
    scale = np.maximum(np.sqrt(variance.reshape(-1)), tf.keras.backend.epsilon())
    if layer.get_config()["invert"]:
        return inputs[0].affine(scale, mean)
    return inputs[0].affine(1 / scale, -mean / scale)


@rewrites(keras.LayerNormalization)
def _layer_norm(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is; gains and biases of channels are folded."""
    x = upright(inputs[0].exact(), context.turned)
    axes = [axis % x.shape.rank for axis in np.atleast_1d(layer.axis).tolist()]
    centred = x - tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axes, keepdims=True)
    y = centred * tf.math.rsqrt(variance + layer.epsilon)
    gamma = values_of(layer.gamma) if layer.scale else 1.0
    beta = values_of(layer.beta) if layer.center else 0.0
    if axes == [x.shape.rank - 1]:
        return stream(upright(y, context.turned)).affine(gamma, beta)
    shape = [n if i in axes else 1 for i, n in enumerate(x.shape)]
    if layer.scale:
        y = y * constant(gamma.reshape(shape), y)
    if layer.center:
        y = y + constant(beta.reshape(shape), y)
    return stream(upright(y, context.turned))


@rewrites(layers.RPReLU)
def _rprelu(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """A PReLU, its shifts folded."""
    with tf.init_scope():
        slope = values_of(layer.negative_slope)
    value = _prelu(inputs[0].affine(offset=values_of(layer.bias_in)), slope)
    return value.affine(offset=values_of(layer.bias_out))


@rewrites(keras.PReLU)
def _keras_prelu(
    layer: Layer, inputs: Sequence[Value], context: Context
) -> Value | list[Value]:
    """As it is."""
    slope = values_of(layer.alpha)
    if slope.size != inputs[0].shape[-1]:
        return exactly(layer, inputs, context)
    return _prelu(inputs[0], slope.reshape(-1))


def _prelu(value: Value, slope: np.ndarray) -> Value:
    """PReLU commutes with a positive factor, so that one stays pending."""
    x, scale = value.up_to_scale()
    # In this form, and with alpha of the input's rank less one, TFLite has an operator.
    alpha = constant(-slope.reshape([1] * (x.shape.rank - 2) + [-1]), x)
    return stream(tf.nn.relu(x) + alpha * tf.nn.relu(-x)).affine(scale)


@rewrites(
    keras.ReLU,
    keras.LeakyReLU,
    keras.ELU,
    keras.ThresholdedReLU,
    keras.Activation,
    keras.Softmax,
)
def _activation(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is; `linear` is nothing."""
    if getattr(layer, "activation", None) is tf.keras.activations.linear:
        return inputs[0]
    return stream(layer.call(inputs[0].exact()))


@rewrites(
    keras.Reshape,
    keras.Flatten,
    keras.Permute,
    keras.RepeatVector,
    keras.Resizing,
    keras.CenterCrop,
    keras.UnitNormalization,
    keras.Lambda,
)
def exactly(layer: Layer, inputs: Sequence[Value], context: Context) -> list[Value]:
    """As it is."""
    tensors = {
        id(x): upright(value.exact(), context.turned)
        for x, value in zip(context.call.inputs, inputs, strict=True)
    }
    arguments, named = arguments_of(context.call, tensors)
    results = tf.nest.flatten(layer.call(*arguments, **named))
    return [stream(upright(y, context.turned)) for y in results]


@rewrites(keras.ZeroPadding2D, keras.ZeroPadding1D)
def _zero_padding(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is, in front of signs too: a sign counts zeros as +1."""
    # A factor keeps padded zeros zero, a shift does not. Of a sign, see `_sign_layer`.
    x, scale = inputs[0].up_to_scale()
    borders = _borders(layer.padding, x, context)
    return stream(tf.pad(x, [[0, 0], *borders, [0, 0]])).affine(scale)


@rewrites(keras.Cropping2D, keras.Cropping1D)
def _cropping(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is."""

    def crop(x):
        borders = _borders(layer.cropping, x, context)
        begin = [0, *(before for before, _ in borders), 0]
        sizes = [
            n - before - after
            for n, (before, after) in zip(x.shape[1:-1], borders, strict=True)
        ]
        return tf.slice(x, begin, [-1, *sizes, -1])

    return _pooled(inputs[0], crop)


def _borders(borders, x: tf.Tensor, context: Context) -> list[tuple[int, int]]:
    """Return `(before, after)` of each spatial axis, as images lie."""
    borders = np.reshape(borders, (-1, 2)).tolist()
    return [
        pair[::-1] if context.turned and x.shape.rank == 4 else pair for pair in borders
    ]


@rewrites(keras.UpSampling2D, keras.UpSampling1D)
def _up_sampling(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is; `nearest` and `bilinear`."""
    interpolation = getattr(layer, "interpolation", "nearest")
    if interpolation not in ("nearest", "bilinear"):
        raise UserError(
            f"Layer {layer.name!r} must interpolate as TFLite does",
            got=f"interpolation={interpolation!r}",
            fix="'nearest' or 'bilinear'",
        )
    # Both see images the same way from either side, and weights sum up to 1.
    return _pooled(inputs[0], layer.call)


@rewrites(keras.GlobalAveragePooling2D, keras.GlobalAveragePooling1D)
def _global_average_pool(
    layer: Layer, inputs: Sequence[Value], context: Context
) -> Value:
    """As it is."""
    axes = list(range(1, len(inputs[0].shape)))
    return _pooled(
        inputs[0], lambda x: tf.reduce_mean(x, axes, keepdims=layer.keepdims)
    )


@rewrites(keras.GlobalMaxPooling2D, keras.GlobalMaxPooling1D)
def _global_max_pool(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is."""
    axes = list(range(1, len(inputs[0].shape)))
    return _maximum(
        inputs[0], lambda x: tf.reduce_max(x, axes, keepdims=layer.keepdims)
    )


@rewrites(keras.AveragePooling2D, keras.AveragePooling1D)
def _average_pool(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is."""
    window = context.window(layer, inputs[0].shape)
    if window.is_padded and not window.native:
        raise UserError(
            "Strided layers must pad alike, all symmetric or all 'same'",
            got=f"layer {layer.name!r} averages with padding='same' among symmetric "
            "ones",
            fix="pool with padding='valid'",
        )

    def pool(x):
        x = x if window.native else window.pad(x, 0.0)
        padding = window.native or "VALID"
        return tf.nn.avg_pool2d(x, window.kernel, window.strides, padding)

    return _pooled(inputs[0], _on_images(pool))


@rewrites(keras.MaxPooling2D, keras.MaxPooling1D, layers.SymmetricMaxPooling2D)
def _max_pool(layer: Layer, inputs: Sequence[Value], context: Context) -> Value:
    """As it is."""
    window = context.window(layer, inputs[0].shape)

    def pool(x):
        x = x if window.native else window.pad(x, x.dtype.min)
        padding = window.native or "VALID"
        return tf.nn.max_pool2d(x, window.kernel, window.strides, padding)

    return _maximum(inputs[0], _on_images(pool))


def _on_images(pool: Callable[[tf.Tensor], tf.Tensor]):
    """Pool rows as images of one row."""

    def pool_any(x):
        if x.shape.rank == 4:
            return pool(x)
        return tf.squeeze(pool(tf.expand_dims(x, 1)), 1)

    return pool_any


def _maximum(value: Value, pool: Callable[[tf.Tensor], tf.Tensor]) -> Value:
    """Pool the core of a value at positive scale, with which maxima commute."""
    if np.all(np.greater(value.scale, 0)):
        return _pooled(value, pool)
    return stream(pool(value.exact()))


def _pooled(value: Value, pool: Callable[[tf.Tensor], tf.Tensor]) -> Value:
    """Pool the core of a value: averages and copies commute with scale and offset."""
    value = value.settled()
    return stream(pool(value.emit(1.0, 0.0))).affine(value.scale, value.offset)


def activated(layer: Layer, value: Value) -> Value:
    """Apply the activation that a layer has built in."""
    if layer.activation in (None, tf.keras.activations.linear):
        return value
    return stream(layer.activation(value.exact()))
