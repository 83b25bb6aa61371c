import inspect

import larq as lq
import numpy as np
import oracles
import pytest
import tensorflow as tf

from larq_nobn import UserError
from larq_nobn.layers import (
    ChannelAffine,
    LearnableBias,
    QuantConv2D,
    RPReLU,
    RSign,
    Scale,
    ScaledAdd,
    ScaledWSConv2D,
    SymmetricMaxPooling2D,
)
from larq_nobn.ops import is_fast

rng = np.random.default_rng(0)
POLICIES = (
    "float64",
    "float32",
    "mixed_float16",
    "mixed_bfloat16",
    "float16",
    "bfloat16",
)


def _gradients(layer, x, dy):
    """Output, and gradients of the input and the trainable weights by name."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    weights = layer.trainable_variables
    dx, *gradients = tape.gradient(y, [x, *weights], dy)
    names = [weight.name.split("/")[-1].removesuffix(":0") for weight in weights]
    return y.numpy(), dx.numpy(), dict(zip(names, gradients, strict=True))


# --- Convolutions ---------------------------------------------------------------------

PADDED = {
    "3x3": {"kernel_size": 3},
    "3x3, stride 2": {"kernel_size": 3, "strides": 2},
    "5x5, stride 3": {"kernel_size": 5, "strides": 3},
    "7x7, stride 2": {"kernel_size": 7, "strides": 2},
    "1x1, stride 2": {"kernel_size": 1, "strides": 2},
    "3x5, strides 2x1": {"kernel_size": (3, 5), "strides": (2, 1)},
    "1x3, stride 2": {"kernel_size": (1, 3), "strides": 2},
    "dilation 2": {"kernel_size": 3, "dilation_rate": 2},
    "5x3, dilation 3x1": {"kernel_size": (5, 3), "dilation_rate": (3, 1)},
    "one-padding": {"kernel_size": 3, "pad_values": 1.0},
    "one-padding, stride 2": {"kernel_size": 3, "strides": 2, "pad_values": 1.0},
    "one-padding, dilation 2": {
        "kernel_size": 3,
        "dilation_rate": 2,
        "pad_values": 1.0,
    },
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cls", [QuantConv2D, ScaledWSConv2D])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("kwargs", PADDED.values(), ids=PADDED)
def test_symmetric_padding_is_pytorchs(cls, size, kwargs):
    layer = cls(4, padding="symmetric", input_quantizer="ste_sign", **kwargs)
    x = rng.normal(size=(2, *size, 3))
    y = layer(x)
    kernel = layer.get_weights()[0]
    if cls is ScaledWSConv2D:
        kernel = oracles.standardize(kernel)
    padding = [
        dilation * (size // 2)
        for size, dilation in zip(layer.kernel_size, layer.dilation_rate, strict=True)
    ]
    expected = oracles.conv2d(
        oracles.sign(x),
        kernel,
        layer.strides,
        padding,
        kwargs.get("pad_values", 0.0),
        layer.dilation_rate,
    )
    np.testing.assert_allclose(y, expected, atol=1e-12)
    assert layer.compute_output_shape(x.shape) == y.shape


def test_symmetric_padding_of_unknown_sizes():
    layer = QuantConv2D(4, 3, strides=2, padding="symmetric")
    model = tf.keras.Sequential([tf.keras.Input((None, None, 3)), layer])
    assert model.output_shape == (None, None, None, 4)
    x = rng.normal(size=(2, 9, 6, 3)).astype("float32")
    expected = oracles.conv2d(x, layer.get_weights()[0], (2, 2), (1, 1))
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same", "SAME"])
@pytest.mark.parametrize("strides", [1, 2])
def test_other_paddings_are_larqs(padding, strides):
    ours = QuantConv2D(4, 3, padding=padding, strides=strides)
    larqs = lq.layers.QuantConv2D(4, 3, padding=padding, strides=strides)
    x = rng.normal(size=(2, 8, 8, 3))
    ours.build(x.shape)
    larqs.build(x.shape)
    larqs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(x), larqs(x))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("binary", [True, False])
def test_scaled_ws_conv_and_its_gradients(binary):
    """y = conv(x, gain * q(ŵ)), by hand."""
    layer = ScaledWSConv2D(
        3,
        3,
        strides=2,
        padding="symmetric",
        gamma=8.0,  # So large that the straight-through estimator cuts some weights.
        eps=1e-2,
        input_quantizer="approx_sign" if binary else None,
        kernel_quantizer="scaled_sign" if binary else None,
    )
    x = rng.normal(size=(2, 6, 6, 2))
    layer.build(x.shape)
    w, gain = rng.normal(size=(3, 3, 2, 3)), 1 + 0.1 * rng.normal(size=(1, 1, 1, 3))
    layer.set_weights([w, gain])
    dy = rng.normal(size=(2, 3, 3, 3))
    y, dx, gradients = _gradients(layer, x, dy)

    def standardize(w):
        return oracles.standardize(w, 8.0, 1e-2)

    def conv(x, kernel):
        return oracles.conv2d(x, kernel, (2, 2), (1, 1))

    s = standardize(w)
    assert np.any(np.abs(s) > 1)
    signs = oracles.sign(x) if binary else x
    quantized = oracles.scaled_sign(s) if binary else s
    np.testing.assert_allclose(y, conv(signs, gain * quantized), atol=1e-12)

    d_kernel = oracles.numeric_vjp(lambda k: conv(signs, k), gain * quantized, dy)
    d_gain = (d_kernel * quantized).sum((0, 1, 2), keepdims=True)
    np.testing.assert_allclose(gradients["gain"], d_gain, atol=1e-7)
    d_s = gain * d_kernel * ((np.abs(s) <= 1) if binary else 1)
    d_w = oracles.numeric_vjp(standardize, w, d_s)
    np.testing.assert_allclose(gradients["kernel"], d_w, atol=1e-7)
    d_signs = oracles.numeric_vjp(lambda v: conv(v, gain * quantized), signs, dy)
    d_x = d_signs * (oracles.approx_sign_grad(x) if binary else 1)
    np.testing.assert_allclose(dx, d_x, atol=1e-7)


def test_scaled_ws_conv_is_larqs_in_every_other_respect():
    """Groups, bias and activation are the Keras base's; fan-in is per group."""
    kwargs = {"groups": 2, "use_bias": True, "bias_initializer": "ones"}
    ours = ScaledWSConv2D(4, 3, activation="relu", **kwargs)
    keras = tf.keras.layers.Conv2D(4, 3, activation="relu", **kwargs)
    x = rng.normal(size=(2, 8, 8, 6)).astype("float32")
    keras.build(x.shape)
    ours.build(x.shape)
    kernel = oracles.standardize(ours.kernel.numpy())
    keras.set_weights([kernel, np.ones(4)])
    np.testing.assert_allclose(ours(x), keras(x), atol=1e-5)


@pytest.mark.parametrize("cls", [QuantConv2D, ScaledWSConv2D])
def test_inference_is_of_whole_numbers(cls):
    layer = cls(
        6,
        3,
        padding="symmetric",
        input_quantizer="approx_sign",
        kernel_quantizer="scaled_sign",
    )
    images = tf.random.normal((2, 8, 8, 4))
    layer.build(images.shape)
    layer.kernel.assign(tf.random.normal(layer.kernel.shape))
    if cls is ScaledWSConv2D:
        layer.gain.assign(tf.random.normal(layer.gain.shape))
    inference, training = layer(images), layer(images, training=True)
    np.testing.assert_allclose(inference, training, atol=1e-5)
    assert np.any(inference == 0)
    for channel in range(6):
        values = np.unique(np.asarray(inference)[..., channel])
        unit = np.abs(values[values != 0]).min()
        np.testing.assert_allclose(values / unit, np.round(values / unit), rtol=1e-6)


def test_scaled_ws_conv_starts_at_unit_variance():
    """The method's point: signs of any input in, unit variance out."""
    layer = ScaledWSConv2D(
        16, 3, input_quantizer="approx_sign", kernel_quantizer="scaled_sign"
    )
    y = layer(rng.normal(size=(8, 16, 16, 64)))
    # The mean of |ŵ|√N is √(2/π) for normal weights; √3/2 for Glorot's uniform ones.
    np.testing.assert_allclose(np.std(y), np.sqrt(3) / 2, rtol=0.1)


def test_larq_sees_the_binary_kernel():
    """`layer.kernel` is latent; within Larq's scope it is what convolves, less gain."""
    layer = ScaledWSConv2D(
        4, 3, input_quantizer="approx_sign", kernel_quantizer="scaled_sign"
    )
    layer.build((None, 8, 8, 3))
    assert layer.kernel.precision == 1
    latent = layer.get_weights()[0]
    with lq.context.quantized_scope(True):
        binary = layer.get_weights()[0]
    expected = oracles.scaled_sign(oracles.standardize(latent.astype("float64")))
    np.testing.assert_allclose(binary, expected, rtol=1e-4)
    assert len(np.unique(np.abs(binary[..., 0]))) == 1

    model = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), layer])
    profile = lq.models.ModelProfile(model)
    assert profile.op_count("mac", 1) == 6 * 6 * 3 * 3 * 3 * 4
    assert profile.weight_count(bitwidth=1) == 3 * 3 * 3 * 4


@pytest.mark.parametrize("quantizer", ["scaled_sign", "magnitude_aware_sign", None])
@pytest.mark.parametrize("how", ["get_weights", "m.h5", "m.keras", "w.weights.h5", "w"])
def test_weights_saved_in_larqs_scope_are_the_same_network(quantizer, how, tmp_path):
    model = tf.keras.Sequential(
        [
            tf.keras.Input((6, 6, 3)),
            ScaledWSConv2D(
                4, 3, input_quantizer="approx_sign", kernel_quantizer=quantizer
            ),
            QuantConv2D(2, 1, kernel_quantizer="scaled_sign"),
        ]
    )
    _randomize(model)
    x = rng.normal(size=(5, 6, 6, 3)).astype("float32")
    expected = model(x)
    convolves = model.layers[0].kernel_view()(model.layers[0].kernel)
    again = tf.keras.models.clone_model(model)
    with lq.context.quantized_scope(True):
        # A tensor there is what is computed with.
        np.testing.assert_array_equal(
            tf.convert_to_tensor(model.layers[0].gain),
            model.layers[0].gain.latent_variable,
        )
        if how == "get_weights":
            again.set_weights(model.get_weights())
        elif how.startswith("m"):
            model.save(tmp_path / how)
            again = tf.keras.models.load_model(tmp_path / how)
        else:
            model.save_weights(tmp_path / how)
            again.load_weights(tmp_path / how)
    np.testing.assert_allclose(again(x), expected, rtol=1e-3, atol=1e-4)
    if how != "w" and quantizer:  # TensorFlow's checkpoints are of latent weights.
        np.testing.assert_allclose(again.layers[0].kernel, convolves, rtol=1e-6)


def test_a_kernel_that_cannot_be_saved_quantized():
    layer = ScaledWSConv2D(4, 3, kernel_quantizer=tf.exp)
    layer.build((None, 6, 6, 3))
    layer.get_weights()
    with (
        lq.context.quantized_scope(True),
        pytest.raises(ValueError, match=r"again.*Fix: save outside of lq\.context"),
    ):
        layer.get_weights()


@pytest.mark.parametrize("cls", [QuantConv2D, ScaledWSConv2D])
@pytest.mark.parametrize("width", [6, 8])
def test_channels_first(cls, width):
    """XLA convolves it on CPUs; the width may happen to be the number of filters."""
    kwargs = {
        "padding": "symmetric",
        "input_quantizer": "approx_sign",
        "kernel_quantizer": "scaled_sign",
    }
    first = cls(6, 3, data_format="channels_first", **kwargs)
    last = cls(6, 3, data_format="channels_last", **kwargs)
    x = tf.constant(rng.normal(size=(2, 4, width, width)), tf.float32)
    turned = tf.transpose(x, [0, 2, 3, 1])
    first.build(x.shape)
    last.build(turned.shape)
    first.kernel.assign(rng.normal(size=first.kernel.shape))
    last.set_weights(first.get_weights())
    call = tf.function(first, jit_compile=True)
    for training in (False, True):
        y = tf.transpose(call(x, training=training), [0, 2, 3, 1])
        expected = last(turned, training=training)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_thresholds_of_channels_first_are_refused():
    layer = QuantConv2D(6, 3, data_format="channels_first", input_quantizer=RSign())
    with pytest.raises(ValueError, match=r"last axis.*Fix: use data_format='ch"):
        layer.build((None, 4, 8, 8))


@pytest.mark.parametrize("cls", [QuantConv2D, ScaledWSConv2D])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integers_are_refused(cls, dtype):
    images = tf.ones((1, 8, 8, 3), dtype)
    with pytest.raises(TypeError, match=rf"dtype {dtype}. Fix: tf.cast\(images"):
        cls(4, 3, input_quantizer="approx_sign")(images)
    with pytest.raises(TypeError, match=rf"dtype {dtype}. Fix: tf.cast\(images"):
        cls(4, 3)(tf.keras.Input((8, 8, 3), dtype=dtype))


@pytest.mark.parametrize("argument", ["input_quantizer", "kernel_quantizer"])
@pytest.mark.parametrize("value", ["aprox_sign", 3])
def test_quantizers_must_be_known(argument, value):
    message = f"`{argument}` must be .*'approx_sign', .*'scaled_sign'.*Fix: choose"
    with pytest.raises(UserError, match=message):
        QuantConv2D(4, 3, **{argument: value})
    with pytest.raises(UserError, match="`quantizer` must be a quantizer"):
        RSign(value)


@pytest.mark.parametrize("cls", [Scale, ScaledAdd])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "2", None, True])
def test_factors_must_be_finite_numbers(cls, value):
    with pytest.raises(UserError, match="must be a finite number"):
        cls(value)


# Not float16: there the gradient is dy / eps, too, but that is more than it can hold.
@pytest.mark.parametrize("policy", [p for p in POLICIES if p != "float16"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_kernels_give_finite_gradients(policy, value):
    tf.keras.mixed_precision.set_global_policy(policy)
    layer = ScaledWSConv2D(
        4,
        3,
        kernel_quantizer="scaled_sign",
        kernel_initializer=tf.keras.initializers.Constant(value),
    )
    x = tf.cast(rng.normal(size=(2, 6, 6, 3)), layer.compute_dtype)
    with tf.GradientTape() as tape:
        y = layer(x)
    assert np.all(tf.cast(y, "float32") == 0)
    for gradient in tape.gradient(y, layer.trainable_variables):
        assert np.all(np.isfinite(tf.cast(gradient, "float32")))


@pytest.mark.parametrize("quantizer", ["scaled_sign", "magnitude_aware_sign"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_kernels_are_quantized_in_float32_under_mixed_precision(policy, quantizer):
    tf.keras.mixed_precision.set_global_policy(policy)
    layer = ScaledWSConv2D(2, 3, kernel_quantizer=quantizer)
    layer.build((None, 8, 8, 64))
    kernel = rng.normal(size=(3, 3, 64, 2)).astype("float32")
    kernel[..., 0] -= kernel[..., 0].mean()
    # Negative once standardized, but 0 in float16, whose sign is 1.
    kernel[0, 0, 0, 0] = -1e-8
    layer.set_weights([kernel, np.ones((1, 1, 1, 2))])
    signs = np.sign(oracles.standardize(kernel.astype("float64")))
    one_hot = np.zeros((1, 3, 3, 64), "float32")
    one_hot[0, 0, 0, 0] = 1
    assert np.sign(tf.cast(layer(one_hot), "float32")).ravel()[0] == signs[0, 0, 0, 0]


@pytest.mark.parametrize("cls", [QuantConv2D, ScaledWSConv2D])
def test_config_covers_the_constructor(cls):
    """Ours, and everything that Larq's layer takes."""
    values = {
        "filters": 4,
        "kernel_size": (3, 3),
        "strides": (2, 2),
        "padding": "symmetric",
        "pad_values": 1.0,
        "data_format": "channels_last",
        "dilation_rate": (1, 1),
        "groups": 2,
        "activation": "relu",
        "use_bias": True,
        "input_quantizer": "approx_sign",
        "kernel_quantizer": "scaled_sign",
        "kernel_initializer": "zeros",
        "bias_initializer": "ones",
        "kernel_regularizer": "l1",
        "bias_regularizer": "l2",
        "activity_regularizer": "l1",
        "kernel_constraint": "scaled_ws",
        "bias_constraint": "non_neg",
        "gamma": 2.0,
        "eps": 1e-3,
    }
    arguments = {*inspect.signature(cls.__init__).parameters}
    arguments |= {*inspect.signature(lq.layers.QuantConv2D.__init__).parameters}
    arguments -= {"self", "kwargs"}
    assert arguments | {"gamma", "eps"} == {*values}
    layer = cls(**{name: values[name] for name in arguments})
    config = layer.get_config()
    assert arguments <= {*config}
    plain = ("filters", "kernel_size", "strides", "padding", "pad_values", "groups")
    for name in (*plain, *(arguments & {"gamma", "eps", "use_bias"})):
        assert config[name] == values[name]
    assert cls.from_config(config).get_config() == config


@pytest.mark.parametrize("cls", [QuantConv2D, ScaledWSConv2D])
def test_padding_must_be_known(cls):
    with pytest.raises(ValueError, match=r"`padding` must be .*'full'.*Fix: 'symmetri"):
        cls(4, 3, padding="full")


@pytest.mark.parametrize("kernel_size", [2, (3, 4)])
def test_symmetric_padding_needs_an_odd_kernel(kernel_size):
    with pytest.raises(ValueError, match=r"needs an odd kernel.*Fix: use an odd kern"):
        QuantConv2D(4, kernel_size, padding="symmetric")


# --- Shifts, activations and the rest -------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (5, 3)])
def test_learnable_bias(shape):
    layer = LearnableBias()
    layer.build(shape)
    assert np.all(layer.bias == 0)
    bias, x, dy = rng.normal(size=3), rng.normal(size=shape), rng.normal(size=shape)
    layer.set_weights([bias])
    y, dx, gradients = _gradients(layer, x, dy)
    np.testing.assert_allclose(y, x + bias)
    np.testing.assert_allclose(dx, dy)
    expected = dy.sum(tuple(range(len(shape) - 1)))
    np.testing.assert_allclose(gradients["bias"], expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("quantizer", ["approx_sign", "sigmoid_sign"])
def test_rsign(quantizer):
    layer = RSign(quantizer)
    shape = (2, 4, 4, 3)
    layer.build(shape)
    bias, x, dy = rng.normal(size=3), rng.normal(size=shape), rng.normal(size=shape)
    layer.set_weights([bias])
    y, dx, gradients = _gradients(layer, x, dy)
    np.testing.assert_array_equal(y, oracles.sign(x + bias))
    z = x + bias
    if quantizer == "approx_sign":
        derivative = oracles.approx_sign_grad(z)
    else:
        sigmoid = 1 / (1 + np.exp(-3 * z))
        derivative = 6 * sigmoid * (1 - sigmoid)
    np.testing.assert_allclose(dx, derivative * dy, atol=1e-12)
    np.testing.assert_allclose(gradients["bias"], (derivative * dy).sum((0, 1, 2)))


@pytest.mark.usefixtures("float64")
def test_rprelu():
    shape = (2, 4, 4, 3)
    layer = RPReLU()
    layer.build(shape)
    for weight, value in zip(layer.get_weights(), (0, 0.25, 0), strict=True):
        assert weight.shape == (3,)
        assert np.all(weight == value)
    weights, x, dy = *[rng.normal(size=(3, 3))], *rng.normal(size=(2, *shape))
    layer.set_weights(list(weights))
    y, dx, gradients = _gradients(layer, x, dy)

    def rprelu(bias_in, slope, bias_out, x):
        z = x + bias_in
        return np.maximum(z, 0) + slope * np.minimum(z, 0) + bias_out

    np.testing.assert_allclose(y, rprelu(*weights, x))
    expected = oracles.numeric_vjp(lambda x: rprelu(*weights, x), x, dy)
    np.testing.assert_allclose(dx, expected, atol=1e-7)
    d_weights = oracles.numeric_vjp(lambda w: rprelu(*w, x), weights, dy)
    assert list(gradients) == ["bias_in", "slope", "bias_out"]
    for gradient, expected in zip(gradients.values(), d_weights, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.usefixtures("float64")
def test_scale_and_scaled_add():
    x, r = rng.normal(size=(2, 3, 4, 4, 5))
    np.testing.assert_array_equal(Scale(1.04**-0.5)(x), x * 1.04**-0.5)
    np.testing.assert_array_equal(ScaledAdd(0.2)([x, r]), 0.2 * x + r)
    np.testing.assert_array_equal(ScaledAdd()([x, r]), x + r)


@pytest.mark.parametrize(("pool_size", "strides"), [(3, 2), (3, 1), ((5, 3), (2, 3))])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_symmetric_max_pooling(pool_size, strides, size):
    """Padding is never the maximum, even of negative inputs."""
    x = (rng.normal(size=(2, *size, 3)) - 10).astype("float32")
    layer = SymmetricMaxPooling2D(pool_size, strides)
    y = layer(x)
    (kh, kw), (sh, sw) = layer.pool_size, layer.strides
    padded = np.pad(
        x,
        [(0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)],
        constant_values=-np.inf,
    )
    for i, j in np.ndindex(*y.shape[1:3]):
        window = padded[:, i * sh : i * sh + kh, j * sw : j * sw + kw]
        np.testing.assert_array_equal(y[:, i, j], window.max((1, 2)))
    assert layer.compute_output_shape(x.shape) == y.shape


def test_symmetric_max_pooling_needs_an_odd_pool():
    with pytest.raises(ValueError, match=r"odd pool size.*\(2, 2\).*Fix: use an odd"):
        SymmetricMaxPooling2D(2)


def test_symmetric_max_pooling_needs_channels_last():
    with pytest.raises(ValueError, match=r"channels last.*first'.*Fix: tf.transpose"):
        SymmetricMaxPooling2D(3, data_format="channels_first")


@pytest.mark.parametrize("cls", [LearnableBias, RSign, RPReLU])
def test_channels_must_be_known(cls):
    with pytest.raises(ValueError, match=r"last axis.*\(None, 4, None\).*Fix: give"):
        cls()(tf.keras.Input((4, None)))


@pytest.mark.parametrize(
    "layer",
    [
        LearnableBias("ones"),
        RSign("sigmoid_sign"),
        RPReLU("ones"),
        RPReLU(),
        Scale(0.5),
        ScaledAdd(0.3),
        SymmetricMaxPooling2D(5, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_configs_cover_the_constructors(layer):
    config = layer.get_config()
    arguments = {*inspect.signature(type(layer).__init__).parameters}
    assert arguments - {"self", "kwargs"} <= {*config}
    assert type(layer).from_config(config).get_config() == config


# --- In a user's own model ------------------------------------------------------------


def _sequential() -> tf.keras.Model:
    """Every layer and quantizer, by object and by string, among Larq's own."""
    scaled = {"kernel_quantizer": "scaled_sign", "kernel_constraint": "scaled_ws"}
    return tf.keras.Sequential(
        [
            tf.keras.Input((16, 16, 3)),
            ScaledWSConv2D(6, 3, padding="symmetric", strides=2),
            SymmetricMaxPooling2D(3, 2),
            Scale(0.9),
            LearnableBias(),
            ScaledWSConv2D(
                6,
                3,
                padding="symmetric",
                input_quantizer="approx_sign",
                kernel_quantizer="scaled_sign",
            ),
            RPReLU(),
            lq.layers.QuantConv2D(6, 3, input_quantizer=RSign(), **scaled),
            RSign("sigmoid_sign"),
            lq.layers.QuantDepthwiseConv2D(
                2,
                input_quantizer="sigmoid_sign",
                depthwise_quantizer="scaled_sign",
                depthwise_constraint="weight_clip",
            ),
            tf.keras.layers.Flatten(),
            lq.layers.QuantDense(3, input_quantizer=RSign("sigmoid_sign"), **scaled),
        ]
    )


def _functional() -> tf.keras.Model:
    x = image = tf.keras.Input((8, 8, 3))
    r = lq.layers.QuantConv2D(4, 1)(x)
    f = QuantConv2D(
        4,
        3,
        padding="symmetric",
        input_quantizer=RSign(),
        kernel_quantizer="scaled_sign",
        pad_values=1.0,
    )(x)
    x = ScaledAdd(0.2)([f, r])
    f = ScaledWSConv2D(4, 1, input_quantizer=RSign(), kernel_quantizer="ste_sign")(x)
    x = tf.keras.layers.Flatten()(ScaledAdd(0.2)([f, x]))
    return tf.keras.Model(image, tf.keras.layers.Dense(3)(x))


def _randomize(model: tf.keras.Model) -> None:
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))


def _arguments(config):
    """A config without what Keras adds to that of a built layer."""
    if not isinstance(config, dict):
        return config
    return {k: _arguments(v) for k, v in config.items() if k != "build_config"}


@pytest.mark.parametrize("build", [_sequential, _functional])
def test_saves_and_loads_without_custom_objects(build, tmp_path):
    model = build()
    _randomize(model)
    model.compile("adam", "mse")
    x = rng.normal(size=(4, *model.input_shape[1:])).astype("float32")
    expected = model(x)
    for name in ("m.keras", "m.h5", "m"):
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)
        assert [type(a) for a in loaded.layers] == [type(a) for a in model.layers]
        for a, b in zip(loaded.layers, model.layers, strict=True):
            assert _arguments(a.get_config()) == _arguments(b.get_config())
        np.testing.assert_allclose(loaded(x), expected, rtol=1e-5, atol=1e-5)
        assert len(loaded.trainable_variables) == len(model.trainable_variables)
        loaded.run_eagerly = True  # Compiling three train steps takes long.
        loaded.train_on_batch(x, np.zeros((4, 3)))
        moved = np.abs(loaded(x) - expected).max()
        assert np.isfinite(moved)
        assert moved > 0
    model.save_weights(tmp_path / "w.weights.h5")
    again = build()
    again.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_allclose(again(x), expected, rtol=1e-5, atol=1e-5)


def test_clones():
    model = _sequential()
    clone = tf.keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = rng.normal(size=(2, 16, 16, 3))
    np.testing.assert_array_equal(clone(x), model(x))


@pytest.mark.parametrize("larqs", [lq.layers.QuantConv2D, lq.layers.QuantDense])
def test_larqs_layers_stay_larqs(larqs, tmp_path):
    """Our QuantConv2D must not answer to the name of Larq's."""
    arguments = {"filters": 3, "kernel_size": 3} if "Conv" in larqs.__name__ else [3]
    layer = larqs(**arguments) if isinstance(arguments, dict) else larqs(*arguments)
    model = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), layer])
    for name in ("m.keras", "m.h5", "m"):
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)
        assert type(loaded.layers[0]) is larqs


class _Twice(tf.keras.layers.Wrapper):
    """A wrapper of a user's."""

    def call(self, inputs):
        return self.layer(inputs) * 2


def _kinds(model):
    """The classes of what the layers of a model wrap."""
    layers = (getattr(layer, "layer", layer) for layer in model.layers)
    return [type(getattr(layer, "layer", layer)) for layer in layers]


WRAPPED = [
    QuantConv2D(3, 3, padding="symmetric", input_quantizer="approx_sign"),
    ScaledWSConv2D(3, 3, input_quantizer=RSign(), kernel_quantizer="scaled_sign"),
    LearnableBias(),
    ChannelAffine(),
    RSign(),
    RPReLU(),
    Scale(0.5),
    SymmetricMaxPooling2D(),
    lq.layers.QuantConv2D(3, 3, input_quantizer="ste_sign"),
]


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_wrapped_layers_load_as_they_were(name, tmp_path):
    """Keras's wrappers look their layer up by the name of its class, and no more."""
    x = image = tf.keras.Input((2, 6, 6, 3))
    inside = tf.keras.Input((6, 6, 3))
    pair = [WRAPPED[0](inside), WRAPPED[0](inside)]
    with tf.keras.utils.custom_object_scope({"_Twice": _Twice}):
        outputs = [
            tf.keras.layers.TimeDistributed(type(layer).from_config(config))(x)
            for layer in WRAPPED
            for config in [layer.get_config()]
        ]
        model = tf.keras.Model(inside, ScaledAdd(0.2)(pair))
        outputs.append(tf.keras.layers.TimeDistributed(model)(x))
        outputs.append(tf.keras.layers.TimeDistributed(_Twice(Scale(0.3)))(x))
        sequences = tf.keras.layers.Reshape((2, -1))(x)
        rnn = tf.keras.layers.SimpleRNN(2, kernel_constraint="scaled_ws")
        outputs.append(tf.keras.layers.Bidirectional(rnn)(sequences))
        model = tf.keras.Model(image, outputs)
        _randomize(model)
        model.save(tmp_path / name)
        loaded = tf.keras.models.load_model(tmp_path / name)
    for kinds in zip(_kinds(loaded), _kinds(model), strict=True):
        assert kinds[0] is kinds[1]
    images = rng.normal(size=(3, *image.shape[1:])).astype("float32")
    for y, expected in zip(loaded(images), model(images), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_layers_of_others_are_not_taken_for_ours(tmp_path):
    """A class of somebody else may be called like one of ours."""

    class Scale(tf.keras.layers.Layer):
        pass

    model = tf.keras.Sequential([tf.keras.Input((3,)), Scale()])
    model.save(tmp_path / "m.h5")
    with pytest.raises(ValueError, match="Unknown layer: 'Scale'"):
        tf.keras.models.load_model(tmp_path / "m.h5")


@pytest.mark.parametrize(
    "layer",
    [
        lq.layers.QuantConv2D(4, 3, input_quantizer=RSign()),
        lq.layers.QuantDense(4, input_quantizer=RSign()),
        lq.layers.QuantDepthwiseConv2D(3, input_quantizer=RSign()),
        lq.layers.QuantSeparableConv2D(4, 3, input_quantizer=RSign()),
        QuantConv2D(4, 3, input_quantizer=RSign()),
        ScaledWSConv2D(4, 3, input_quantizer=RSign()),
    ],
    ids=lambda layer: f"{type(layer).__module__}.{type(layer).__name__}",
)
def test_rsign_as_input_quantizer_trains(layer):
    model = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), layer])
    bias = layer.input_quantizer.bias
    assert any(bias is weight for weight in model.trainable_variables)
    assert lq.models.ModelProfile(model).layer_profiles[0].input_precision == 1
    model.compile("sgd", "mse")
    x = rng.normal(size=(4, 8, 8, 3))
    model.train_on_batch(x, np.zeros((4, *model.output_shape[1:])))
    assert np.all(bias.numpy() != 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*mixed_float16.*")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_trains(policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    model = _sequential()
    dtype = tf.keras.mixed_precision.global_policy().variable_dtype
    assert {weight.dtype.name for weight in model.weights} == {dtype}
    model.compile("adam", "mse", run_eagerly=True)
    x = rng.normal(size=(4, 16, 16, 3))
    before = model.get_weights()
    for _ in range(2):
        assert np.isfinite(model.train_on_batch(x, np.zeros((4, 3))))
    assert model(x).dtype == tf.keras.mixed_precision.global_policy().compute_dtype
    after = model.get_weights()
    assert all(np.all(np.isfinite(weight.astype("float32"))) for weight in after)
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))


def test_a_failed_call_does_not_cost_the_latent_weights(monkeypatch):
    """Interrupted in a convolution, `get_weights` still gives what trains."""
    layer = QuantConv2D(4, 3, kernel_quantizer="ste_sign")
    layer.build((None, 8, 8, 2))
    latent = layer.get_weights()[0]
    with monkeypatch.context() as patch:
        patch.setattr(layer, "convolution_op", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            layer(tf.zeros((1, 8, 8, 2)))
    np.testing.assert_array_equal(layer.get_weights()[0], latent)
    assert set(np.abs(latent).ravel()) != {1.0}


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_keras_learns_shapes_without_compiling():
    """Building a network must not trace functions for a graph that never runs."""
    runs = []

    class Layer(tf.keras.layers.Layer):
        def call(self, inputs):
            runs.append(is_fast())
            return inputs

    image = tf.keras.Input((2,))
    model = tf.keras.Model(image, Layer()(image))
    assert runs == [False]
    model(tf.ones((1, 2)))
    assert runs == [False, False]  # eager
    tf.function(model)(tf.ones((1, 2)))
    assert runs[2:] == [True]
