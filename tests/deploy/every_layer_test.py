"""Every layer that the export knows, each against Keras."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf
from deploying import functional, images_for, relative

from larq_nobn import deploy, layers
from larq_nobn._keras2 import named_calls_of
from larq_nobn.deploy import FoldedModel
from larq_nobn.deploy.rules import registered
from larq_nobn.deploy.survey import randomize

pytestmark = pytest.mark.lce

keras = tf.keras.layers
BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
IMAGE, ROW, FLAT = (8, 6, 4), (9, 4), (12,)


def operators(compute):
    """A nested model of operators."""

    def make():
        x = tf.keras.Input(IMAGE)
        return tf.keras.Model(x, compute(x))

    return make


def joined(layer, *shapes):
    """A nested model of a layer that takes an image and what is made of it."""

    def make():
        x = tf.keras.Input(IMAGE)
        return tf.keras.Model(x, layer()([x, *(shape()(x) for shape in shapes)]))

    return make


def squeeze_excite():
    x = tf.keras.Input(IMAGE)
    y = keras.GlobalAveragePooling2D()(x)
    y = keras.Dense(2, activation="relu")(y)
    y = keras.Dense(4, activation="sigmoid")(y)
    return tf.keras.Model(x, keras.Multiply()([x, keras.Reshape((1, 1, 4))(y)]))


def siamese():
    """An inner model that is called twice, in one that is called once."""
    inner = tf.keras.Sequential([keras.Conv2D(4, 3), layers.RPReLU()])
    inner = tf.keras.Sequential([tf.keras.Input(IMAGE), inner, keras.ReLU()])
    x = tf.keras.Input(IMAGE)
    return tf.keras.Model(x, keras.Add()([inner(x), inner(layers.Scale(-0.5)(x))]))


def several():
    """An inner model of two inputs and two outputs."""
    x, y = tf.keras.Input(IMAGE), tf.keras.Input((4,))
    inner = tf.keras.Model([x, y], [keras.Add()([x, y[:, None, None]]), x])
    x = tf.keras.Input(IMAGE)
    a, b = inner([x, keras.GlobalMaxPooling2D()(x)])
    return tf.keras.Model(x, keras.Concatenate()([a, b]))


def adapted(**kwargs):
    layer = keras.Normalization(**kwargs)
    rng = np.random.default_rng(3)
    layer.adapt(rng.normal(2, 3, (64, *IMAGE)).astype("float32"))
    return layer


# What is made, and the shape of its input; between a shift and another layer.
IMAGES = {
    # identities at inference
    "dropouts": lambda: tf.keras.Sequential(
        [
            keras.Dropout(0.5),
            keras.SpatialDropout2D(0.5),
            keras.AlphaDropout(0.5),
            keras.GaussianDropout(0.5),
            keras.GaussianNoise(1.0),
            keras.ActivityRegularization(0.1),
            keras.Identity(),
        ]
    ),
    "augmentation": lambda: tf.keras.Sequential(
        [
            keras.RandomFlip(),
            keras.RandomRotation(0.2),
            keras.RandomZoom(0.2),
            keras.RandomTranslation(0.2, 0.2),
            keras.RandomContrast(0.2),
            keras.RandomBrightness(0.2),
        ]
    ),
    # folded
    "rescaling": lambda: keras.Rescaling(1 / 127.5, -1.0),
    "rescaling by channel": lambda: keras.Rescaling([0.1, 0.2, 2, -1], [1, 2, 3, 4]),
    "normalization": adapted,
    "normalization by image": lambda: adapted(axis=None),
    "normalization by row": lambda: adapted(axis=(1, 3)),
    "normalization inverted": lambda: adapted(invert=True),
    "arithmetic": operators(lambda x: 3 - (x * 2 + 1) / 4),
    "arithmetic by channel": operators(
        lambda x: -(x * [1.0, -2, 3, 0] + [1.0, 2, 3, 4])
    ),
    "sums": operators(lambda x: x - (x * 2.0 + x)),
    # shapes and values
    "zero padding": lambda: keras.ZeroPadding2D(((1, 2), (0, 3))),
    "cropping": lambda: keras.Cropping2D(((1, 2), (0, 3))),
    "nearest": lambda: keras.UpSampling2D((2, 3)),
    "bilinear": lambda: keras.UpSampling2D(2, interpolation="bilinear"),
    "resizing": lambda: keras.Resizing(5, 9),
    "center crop": lambda: keras.CenterCrop(3, 4),
    "reshape": lambda: keras.Reshape((4, 12, 4)),
    "permute": lambda: keras.Permute((2, 1, 3)),
    "slices": operators(lambda x: x[:, 1:, ::2]),
    "operators": operators(
        lambda x: tf.concat([tf.nn.relu(x), x**2, tf.split(x, 2, -1)[1]], 1 + 2)
    ),
    "multiplied with rows": operators(lambda x: x * x[:, :1] / (1 + x * x)),
    "constant image": operators(
        lambda x: x * np.arange(48.0).reshape(8, 6, 1).astype(x.dtype.name)
    ),
    "lambda": lambda: keras.Lambda(lambda x: x[:, ::-1]),
    "prelu by pixel": lambda: keras.PReLU(),
    "layer norm": lambda: keras.LayerNormalization(),
    "layer norm by image": lambda: keras.LayerNormalization((1, 2)),
    "unit norm": lambda: keras.UnitNormalization(),
    "activations": lambda: tf.keras.Sequential(
        [keras.ELU(), keras.ThresholdedReLU(0.3), keras.LeakyReLU(), keras.ReLU(6.0)]
    ),
    # several inputs
    "squeeze-excite": squeeze_excite,
    "siamese": siamese,
    "several": several,
    "subtract": joined(keras.Subtract, keras.ReLU),
    "average": joined(keras.Average, keras.ReLU, lambda: layers.Scale(-2.0)),
    "maximum": joined(keras.Maximum, lambda: layers.Scale(-0.5)),
    "minimum": joined(keras.Minimum, lambda: layers.Scale(-0.5)),
    "multiply": joined(keras.Multiply, lambda: layers.Scale(-0.5)),
    "broadcast": joined(keras.Add, lambda: keras.GlobalMaxPooling2D(keepdims=True)),
    "broadcast row": joined(keras.Add, lambda: keras.Cropping2D(((1, 6), (0, 0)))),
    "other rank": joined(keras.Add, lambda: lambda x: keras.Flatten()(x)[:, None, :4]),
    "concatenate rows": joined(
        lambda: keras.Concatenate(1), lambda: layers.Scale(-0.5)
    ),
    # convolutions
    "depthwise": lambda: keras.DepthwiseConv2D(3, 2, "same", depth_multiplier=2),
    "depthwise valid": lambda: keras.DepthwiseConv2D((2, 3), activation="relu"),
    "binary depthwise": lambda: lq.layers.QuantDepthwiseConv2D(
        3,
        padding="same",
        input_quantizer="ste_sign",
        depthwise_quantizer="ste_sign",
        pad_values=1.0,
    ),
    "separable": lambda: keras.SeparableConv2D(5, 3, 2, "same", depth_multiplier=2),
    "binary separable": lambda: lq.layers.QuantSeparableConv2D(
        5,
        3,
        input_quantizer=layers.RSign(),
        depthwise_quantizer="ste_sign",
        pointwise_quantizer="ste_sign",
    ),
    "transposed": lambda: keras.Conv2DTranspose(5, 3, 2, "same"),
    "transposed valid": lambda: keras.Conv2DTranspose(5, (3, 2), (2, 1)),
    "transposed, more": lambda: keras.Conv2DTranspose(5, 3, 3, output_padding=1),
    "binary transposed": lambda: lq.layers.QuantConv2DTranspose(
        5, 3, strides=2, padding="same", **BINARY
    ),
    # Keras itself cannot run groups on a CPU but compiled.
    "grouped": lambda: keras.Conv2D(6, 3, 2, "same", groups=2),
    "dense": lambda: keras.Dense(5),
    "binary dense": lambda: lq.layers.QuantDense(5, **BINARY),
    # signs as layers
    "sign": lambda: lq.quantizers.SteSign(),
    "two bits": lambda: lq.quantizers.DoReFa(2),
    "learned sign": lambda: tf.keras.Sequential(
        [layers.RSign(), keras.MaxPooling2D(2), keras.ZeroPadding2D(1)]
    ),
    "sign in front": lambda: tf.keras.Sequential(
        [
            layers.RSign(),
            keras.Dropout(0.5),
            lq.layers.QuantConv2D(5, 3, padding="same", kernel_quantizer="ste_sign"),
        ]
    ),
    "sign, padded": lambda: tf.keras.Sequential(
        [
            lq.quantizers.SteSign(),
            keras.ZeroPadding2D(((1, 0), (0, 1))),
            lq.layers.QuantConv2D(5, 3, kernel_quantizer="ste_sign"),
        ]
    ),
}
ROWS = {
    "conv": lambda: keras.Conv1D(5, 3, 2, "same"),
    "causal": lambda: keras.Conv1D(5, 3, padding="causal", dilation_rate=2),
    "binary": lambda: lq.layers.QuantConv1D(5, 3, padding="same", **BINARY),
    "binary causal": lambda: lq.layers.QuantConv1D(5, 3, padding="causal", **BINARY),
    "separable": lambda: keras.SeparableConv1D(5, 3, 2, "same", depth_multiplier=2),
    "binary separable": lambda: lq.layers.QuantSeparableConv1D(
        5, 3, input_quantizer="ste_sign", pointwise_quantizer="ste_sign"
    ),
    "depthwise": lambda: keras.DepthwiseConv1D(3, 2, "same"),
    "max": lambda: keras.MaxPooling1D(3, 2, "same"),
    "mean": lambda: keras.AveragePooling1D(2),
    "pad": lambda: keras.ZeroPadding1D((2, 1)),
    "crop": lambda: keras.Cropping1D((2, 1)),
    "up": lambda: keras.UpSampling1D(2),
    "dropout": lambda: keras.SpatialDropout1D(0.5),
    "norm": lambda: keras.BatchNormalization(),
    "layer norm": lambda: keras.LayerNormalization(),
    "dense": lambda: keras.Dense(5),
    "binary dense": lambda: lq.layers.QuantDense(5, **BINARY),
    "global mean": lambda: keras.GlobalAveragePooling1D(),
    "global max": lambda: keras.GlobalMaxPooling1D(keepdims=True),
    "as an image": lambda: keras.Reshape((3, 3, 4)),
}
VECTORS = {
    "dense": lambda: keras.Dense(5, activation="tanh"),
    "binary dense": lambda: lq.layers.QuantDense(5, **BINARY),
    "real dense": lambda: lq.layers.QuantDense(5, kernel_quantizer="ste_sign"),
    "repeat": lambda: keras.RepeatVector(3),
    "norm": lambda: keras.BatchNormalization(),
    "as an image": lambda: keras.Reshape((2, 3, 2)),
}
CASES = [
    (f"{kind}: {name}", shape, make)
    for kind, shape, table in (
        ("image", IMAGE, IMAGES),
        ("row", ROW, ROWS),
        ("vector", FLAT, VECTORS),
    )
    for name, make in table.items()
]
NAMES = [name for name, _, _ in CASES]


def surrounded(make, shape):
    """A model in which something is pending in front of a layer, and behind it."""
    x = image = tf.keras.Input(shape)
    y = image
    if len(shape) == 3:
        # What turns the images for the target "arm".
        x = y = layers.QuantConv2D(4, 3, strides=2, padding="symmetric")(
            keras.UpSampling2D(2)(x)
        )
    x = layers.Scale(1.5)(keras.BatchNormalization()(x))
    x = make()(x)
    x = layers.Scale(0.5)(layers.LearnableBias()(x))
    model = tf.keras.Model(image, [x, y] if len(shape) == 3 else x)
    randomize(model)
    return model


# Keras computes these in float32, whatever it is told.
SINGLE = {
    "image: augmentation",
    "image: rescaling",
    "image: rescaling by channel",
    "image: bilinear",
}
# The others with quantized inputs stay float.
BINARY_CASES = {
    "image: sign in front",
    "image: binary dense",
    "row: binary",
    "row: binary causal",
    "row: binary dense",
    "vector: binary dense",
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "shape", "make"), CASES, ids=NAMES)
def test_folded_in_float64(name, shape, make):
    if name == "image: augmentation":
        # Keras cannot even build these in float64.
        tf.keras.backend.set_floatx("float32")
    model = surrounded(make, shape)
    images = images_for(model, 2)
    call = tf.function(model, jit_compile=True) if name == "image: grouped" else model
    expected = tf.nest.flatten(call(images, training=False))
    for target in ("arm", "xcore"):
        folded = FoldedModel(model, target)
        results = tf.nest.flatten(folded(images))
        for result, y in zip(results, expected, strict=True):
            assert result.shape == y.shape
            assert relative(result, y) < (1e-6 if name in SINGLE else 1e-12)
        assert folded.failures() == []
        assert len(folded.binary_layers) == (name in BINARY_CASES), folded.float_layers


@pytest.mark.slow
@pytest.mark.parametrize("target", deploy.TARGETS)
def test_converted(target):
    """One file of three inputs, with an output for each layer."""
    inputs = [tf.keras.Input(s) for s in (IMAGE, ROW, FLAT)]
    shifted = {x.shape[1:]: layers.LearnableBias()(x) for x in inputs}
    names = [name for name in NAMES if "grouped" not in name]
    outputs = [make()(shifted[s]) for name, s, make in CASES if name in names]
    turning = layers.QuantConv2D(4, 3, strides=2, padding="symmetric", **BINARY)
    model = tf.keras.Model(inputs, [*outputs, turning(inputs[0])])
    randomize(model)
    arrays = [
        images_for(tf.keras.Model(x, x), 3, seed) for seed, x in enumerate(inputs)
    ]
    content = deploy.convert(model, target)
    results = deploy.Runner(content).predict_all(arrays)
    expected = model(arrays, training=False)
    for name, result, y in zip([*names, "turning"], results, expected, strict=True):
        assert result.shape == y.shape, name
        assert relative(result, y) < 5e-6, name
    found = deploy.report(content, model)
    count = len(BINARY_CASES) + 1
    assert found.binary_convolutions == (0 if target == "tflite" else count)
    assert len(found.float_layers) == 4
    result = deploy.check(model, content, arrays)
    assert result.unexplained == 0, str(result)
    assert result.agreement == 1
    assert deploy.can_convert(model, target) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", deploy.TARGETS)
def test_groups(target):
    """Keras runs groups on a CPU only if compiled."""
    model = functional(
        layers.LearnableBias(),
        lq.layers.QuantConv2D(
            8, 3, 2, "same", groups=2, **BINARY, pad_values=1.0, use_bias=False
        ),
        keras.Conv2D(6, 3, groups=2, padding="same"),
    )
    images = images_for(model)
    content = deploy.convert(model, target)
    expected = tf.function(model, jit_compile=True)(images)
    assert relative(deploy.Runner(content).predict(images), expected) < 1e-6
    expected = 0 if target == "tflite" else 2
    assert deploy.report(content).binary_convolutions == expected


def test_every_rewrite_is_in_a_case():
    """And none is there that no case needs."""
    made = [layers.Scale(2.0), layers.ScaledAdd(0.5), layers.ChannelAffine()]
    made += [
        layers.RPReLU(),
        layers.LearnableBias(),
        layers.SymmetricMaxPooling2D(3),
        keras.PReLU(),
    ]
    made += [keras.AveragePooling2D(), keras.MaxPooling2D(), keras.BatchNormalization()]
    tested = {type(layer) for layer in made}
    for _, shape, make in CASES:
        for _, call in named_calls_of(functional(make(), shape=shape)):
            tested.add(type(call.layer))
    missing = [
        function.__name__
        for function, classes in registered().items()
        if not tested & {*classes}
    ]
    assert missing == []
