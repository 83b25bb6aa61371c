"""Folding changes operators, not arithmetic: in float64 nothing may differ."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf
from deploying import functional, images_for, network, relative

from larq_nobn import UserError, layers, zoo
from larq_nobn.deploy import TARGETS, FoldedModel
from larq_nobn.deploy.survey import randomize

pytestmark = pytest.mark.lce

keras = tf.keras.layers
SIGN = {"input_quantizer": "ste_sign", "kernel_quantizer": "scaled_sign"}
BINARY_CONVOLUTIONS = {
    "reactnet18": 16,
    "reactnet34": 32,
    "reactnet_a": 31,
    "abnet18": 16,
    "abnet34": 32,
    "abnet_a": 31,
    "birealnet18": 16,
    "xnornet18": 16,
}
NETWORKS = [
    (name, norm) for name in zoo.list_models() for norm in zoo.FAMILIES[name].norms
]


def assert_same(model, target="arm", count=2):
    images = images_for(model, count)
    folded = FoldedModel(model, target)
    assert relative(folded(images), model(images)) < 1e-12
    return folded


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_every_network_folds_exactly(name, norm):
    folded = assert_same(network(name, norm, width=4))
    assert len(set(folded.binary_layers)) == BINARY_CONVOLUTIONS[name]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "norm", "stem"),
    [
        ("reactnet18", "free", "imagenet"),
        ("reactnet_a", "batch", "imagenet"),
        ("xnornet18", "batch", "cifar"),
    ],
)
def test_every_target_and_stem(name, norm, stem, target):
    assert_same(network(name, norm, stem=stem, width=4), target)


@pytest.mark.usefixtures("float64")
def test_softmax_and_headless():
    assert_same(network(classifier_activation="softmax"))
    model = network(include_top=False, stem="imagenet")
    assert model.output_shape[1:3] == (1, 1)
    assert_same(model)
    # A feature map comes back the right way up.
    assert_same(network(include_top=False, input_shape=(24, 16, 3)))


def random_graph(seed):
    """A network of random layers, shortcuts and branches; scales of both signs."""
    rng = np.random.default_rng(seed)
    image = tf.keras.Input((8, 6, 4))
    maps = [keras.Conv2D(4, 1)(image)]

    def binary(x):
        # Behind a sum, where no exact zero reaches the sign.
        x = layers.LearnableBias()(x)
        size = int(rng.choice([1, 3]))
        return layers.ScaledWSConv2D(4, size, padding="symmetric", **SIGN)(x)

    choices = [
        lambda x, y: layers.LearnableBias()(x),
        lambda x, y: layers.Scale(float(rng.uniform(-2, 2)))(x),
        lambda x, y: keras.BatchNormalization()(x),
        lambda x, y: layers.RPReLU(power_of_two=bool(rng.integers(2)))(x),
        lambda x, y: binary(x),
        lambda x, y: layers.ScaledAdd(float(rng.uniform(-1, 1)))([x, y]),
        lambda x, y: keras.Add()([x, y, x]),
        lambda x, y: keras.Conv2D(4, 1)(keras.Concatenate()([x, y])),
        lambda x, y: keras.PReLU(shared_axes=[1, 2])(x),
        lambda x, y: keras.MaxPooling2D(3, 1, padding="same")(x),
    ]
    for _ in range(12):
        x, y = (maps[i] for i in rng.integers(max(len(maps) - 3, 0), len(maps), 2))
        maps.append(choices[rng.integers(len(choices))](x, y))
    x = layers.ScaledAdd(0.3)([maps[-1], binary(maps[-2])])
    x = keras.AveragePooling2D(2)(x)
    x = keras.Dense(3)(keras.GlobalAveragePooling2D()(x))
    model = tf.keras.Model(image, x)
    randomize(model, seed)
    for layer in model.layers:
        if isinstance(layer, keras.BatchNormalization):
            layer.gamma.assign(layer.gamma * rng.choice([-1.0, 0.0, 1.0], 4))
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_fold_exactly(seed):
    assert_same(random_graph(seed), target=list(TARGETS)[seed % 3])


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [(9, 9), (8, 8), (7, 10), (2, 3), (1, 2)])
def test_mixed_paddings(size, target):
    model = functional(
        layers.ScaledWSConv2D(6, 3, strides=2, padding="symmetric", **SIGN),
        layers.RPReLU(),
        layers.LearnableBias(),
        lq.layers.QuantConv2D(6, 3, strides=2, padding="same", **SIGN, use_bias=True),
        layers.RPReLU(),
        layers.LearnableBias(),
        lq.layers.QuantConv2D(6, 3, strides=2, padding="same", pad_values=1, **SIGN),
        layers.RPReLU(),
        keras.MaxPooling2D(3, 2, padding="same"),
        layers.LearnableBias(),
        lq.layers.QuantConv2D(6, 5, padding="same", pad_values=-1, **SIGN),
        layers.RPReLU(),
        keras.Conv2D(5, 3, strides=2, padding="same", activation="relu"),
        layers.SymmetricMaxPooling2D(3, 1),
        keras.Flatten(),
        keras.Dense(3, activation="sigmoid"),
        shape=(*size, 4),
    )
    assert_same(model, target)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("target", TARGETS)
def test_windows_that_skip_the_end(target):
    model = functional(
        layers.ScaledWSConv2D(6, 3, strides=2, padding="symmetric"),
        keras.Conv2D(5, 1, strides=2, padding="valid"),
        layers.QuantConv2D(5, 3, dilation_rate=2, padding="symmetric", **SIGN),
        keras.ReLU(),
        keras.Dropout(0.5),
        keras.AveragePooling2D(2),
        keras.Flatten(),
        shape=(22, 18, 4),
    )
    assert_same(model, target)


@pytest.mark.usefixtures("float64")
def test_learned_thresholds_and_constant_channels():
    conv = layers.ScaledWSConv2D(
        6,
        3,
        padding="symmetric",
        input_quantizer=layers.RSign(),
        kernel_quantizer="scaled_sign",
    )
    model = functional(conv, layers.RPReLU(), keras.GlobalAveragePooling2D())
    gain = np.array([1.0, -0.5, 0.0, 2.0, -1.0, 0.3]).reshape(1, 1, 1, 6)
    conv.gain.assign(gain)
    kernel = conv.kernel.numpy()
    kernel[..., 3] = 0.7
    conv.kernel.assign(kernel)
    assert_same(model)


@pytest.mark.usefixtures("float64")
def test_sequential_models():
    model = tf.keras.Sequential(
        [
            layers.ScaledWSConv2D(4, 3, strides=2, padding="symmetric", **SIGN),
            layers.RPReLU(),
            keras.GlobalAveragePooling2D(keepdims=True),
            keras.Flatten(),
            keras.Dense(3),
            keras.Softmax(),
        ]
    )
    model.build((None, 8, 8, 3))
    randomize(model)
    assert_same(model)


@pytest.mark.slow
def test_shared_operators_are_created_once():
    model = network("reactnet_a")
    graph = tf.function(FoldedModel(model)).get_concrete_function(
        tf.TensorSpec((1, 16, 16, 3))
    )
    kinds = [op.type for op in graph.graph.get_operations()]
    # 31 convolutions and the stem; a sign for each but the second of a pair.
    assert kinds.count("Conv2D") == 32
    assert kinds.count("SelectV2") == 31 - 5


# ---------------------------------------------------------------------- bad input


def refuse(model, match, **kwargs):
    with pytest.raises(UserError, match=match):
        FoldedModel(model, **kwargs)(images_for(model, 1))


@tf.keras.utils.register_keras_serializable("tests")
class Unknown(keras.Layer):
    pass


def test_unknown_layers():
    refuse(functional(Unknown(name="odd")), "Received: layer 'odd' of class .*Unknown")
    inner = functional(Unknown(name="odd"))
    refuse(functional(inner), "Received: layer 'odd' of class .*Unknown")


def test_models_of_the_wrong_kind():
    class Subclassed(tf.keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UserError, match="must be a Keras model. Received: int"):
        FoldedModel(3)
    with pytest.raises(UserError, match="a subclassed Subclassed. Fix: build it from"):
        FoldedModel(Subclassed())
    with pytest.raises(UserError, match="must be built. Received: sequential"):
        FoldedModel(tf.keras.Sequential([keras.ReLU()]))


def test_shapes_that_are_not_fixed():
    model = network(input_shape=(None, None, 3))
    refusal = r"fixed shape, such as .*Received: input shape \(None, None"
    with pytest.raises(UserError, match=refusal):
        FoldedModel(model)
    with pytest.raises(UserError, match=r"Received: input shape \(\) of float32"):
        FoldedModel(tf.keras.Sequential([tf.keras.Input(()), keras.ReLU()]))
    numbers = tf.keras.Input((4,), dtype="int32")
    with pytest.raises(UserError, match=r"Received: input shape \(4,\) of int32"):
        FoldedModel(tf.keras.Model(numbers, keras.ReLU()(numbers)))


def test_unknown_targets():
    with pytest.raises(UserError, match="`target` must be one of 'arm', 'xcore', 'tfl"):
        FoldedModel(network(), "riscv")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"kernel_quantizer": None}, r"its kernel is real \(kernel_quantizer=None\)"),
        ({"kernel_quantizer": "ste_tern"}, "quantized by SteTern, is not"),
        ({"input_quantizer": "dorefa_quantizer"}, "input quantizer DoReFa is not a si"),
        ({"pad_values": 0.5}, "it pads with 0.5"),
    ],
)
def test_layers_that_would_stay_float(arguments, reason):
    conv = layers.QuantConv2D(4, 3, padding="same", **{**SIGN, **arguments}, name="c")
    model = functional(conv)
    refuse(model, f"Layer 'c' must become a binary .*{reason}.*, so it would stay flo")
    images = images_for(model)
    folded = FoldedModel(model, allow_float=True)
    assert relative(folded(images), model(images)) < 1e-5
    assert not folded.binary_layers


def test_step_one_is_not_binary():
    refuse(network(binary_weights=False), "'stage1_unit1_conv' must become a binary")


def test_other_layers_that_cannot_be_exported():
    first = keras.Flatten(data_format="channels_first", name="f")
    refuse(
        functional(first), "'f' must have channels last. Received: data_format='chan"
    )
    last = keras.Conv2DTranspose(2, 3, dilation_rate=2, name="t")
    refuse(
        functional(last), r"'t' must not be dilated.*Received: dilation_rate=\(2, 2\)"
    )
    cubic = keras.UpSampling2D(interpolation="bicubic", name="u")
    refuse(functional(cubic), "'u' must interpolate as TFLite does. Rec.*='bicubic'")
    image = tf.keras.Input((4, 4, 2))
    noisy = keras.Dropout(0.5, name="d")(image, training=True)
    refuse(tf.keras.Model(image, noisy), "'d' must compute as at inf.*training=True")
    deep = keras.Dense(3, name="e")
    refuse(functional(deep, shape=(2, 2, 2, 2)), r"'e' must .* at most 3 axes")
    rows = keras.BatchNormalization(1, name="n")
    refuse(functional(rows), r"'n' must normalize channels. Received: axis=\[1\]")
    mixed = functional(
        layers.QuantConv2D(4, 3, strides=2, padding="symmetric"),
        keras.AveragePooling2D(3, 2, padding="same", name="mean"),
        shape=(16, 16, 4),
    )
    refuse(mixed, "'mean' averages with padding='same' among symmetric ones")


def test_weights_that_are_not_finite():
    model = network()
    model.get_layer("classifier").bias.assign([0, 0, np.nan, 0, 0])
    refuse(model, "NaN or infinity in 'classifier/bias:0' of layer 'classifier'")
