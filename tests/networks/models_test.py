"""The networks: what is built, from which arguments, and what is refused."""

import golden
import larq as lq
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same_weights, randomized

from larq_nobn import UserError, zoo
from larq_nobn.networks import FAMILIES, MobileNet, NetworkSpec
from larq_nobn.networks.blocks import mobile_betas, stage_betas
from larq_nobn.optimizers import AdaptiveGradientClipping

rng = np.random.default_rng(0)
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
VARIANTS = [
    (name, norm, stem)
    for name, family in FAMILIES.items()
    for norm in family.norms
    for stem in ("imagenet", "cifar")
]


def _images(*shape):
    return rng.normal(size=shape).astype("float32")


def _is_binary(layer) -> bool:
    """Binary kernel and binary input, as Larq sees them."""
    return (
        getattr(getattr(layer, "input_quantizer", None), "precision", 32) == 1
        and getattr(layer.kernel, "precision", 32) == 1
    )


def _convolutions(model) -> list[tf.keras.layers.Layer]:
    return [x for x in model.layers if isinstance(x, lq.layers.QuantConv2D)]


def _shapes(model) -> dict[str, tuple]:
    return {w.name: tuple(w.shape) for w in model.weights}


# --- Every network --------------------------------------------------------------------


def test_list_models():
    assert zoo.list_models() == list(FAMILIES) == list(BINARY_CONVOLUTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm", "stem"), VARIANTS)
def test_every_network_builds(name, norm, stem):
    """Shapes, binary convolutions and their MACs, which Larq counts."""
    size = 64 if stem == "imagenet" else 16
    model = zoo.create_model(
        name, norm=norm, stem=stem, width=2, num_classes=7, input_shape=(size, size, 3)
    )
    assert model.name == f"{name}_{norm}"
    assert model.output_shape == (None, 7)
    assert model.get_layer("classifier").units == 7
    kinds = {type(layer) for layer in model.layers}
    assert (tf.keras.layers.BatchNormalization in kinds) == (norm == "batch")

    binary = [layer for layer in _convolutions(model) if _is_binary(layer)]
    assert len(binary) == BINARY_CONVOLUTIONS[name]
    macs = sum(
        np.prod(layer.output_shape[1:3]) * np.prod(layer.kernel.shape)
        for layer in binary
    )
    profile = lq.models.ModelProfile(model)
    assert profile.op_count("mac", 1) == macs
    # The stem is real, and so is a shortcut's input, though not its kernel.
    real = [layer for layer in _convolutions(model) if layer not in binary]
    downsamples = 0 if name.endswith("_a") else 3
    assert len(real) == 1 + downsamples
    assert [lq.models.LayerProfile(x).weight_count(bitwidth=1) > 0 for x in real] == [
        False,
        *[True] * downsamples,
    ]


def test_larqs_summary(capsys):
    model = zoo.create_model("reactnet18", width=2, stem="cifar", num_classes=10)
    lq.models.summary(model)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "stage1_unit1_conv " in line]
    cells = [cell.strip() for cell in row.strip("|").split()]
    # Name, input precision, output shape, ..., 1-bit weights and 1-bit MACs.
    assert cells[1] == "1"
    assert str(3 * 3 * 2 * 2) in cells
    assert str(32 * 32 * 3 * 3 * 2 * 2) in cells


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reactnet18", "reactnet_a"])
def test_full_size_numbers(name):
    """Of the published networks, by the plan and by their state dicts."""
    build = {"reactnet18": zoo.ReActNet18NoBN, "reactnet_a": zoo.ReActNetNoBN}[name]
    model = build()
    assert model.name == f"{name}_free"
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    profile = lq.models.ModelProfile(model)
    binary = [layer for layer in _convolutions(model) if _is_binary(layer)]
    if name == "reactnet18":
        # Three convolutions a stage from as many channels, and one from half as many.
        macs = 4 * 9 * 64**2 * 56**2 + 3 * 3.5 * 9 * 64**2 * 56**2
        assert profile.op_count("mac", 1) == macs
        assert {layer.kernel_size for layer in binary} == {(3, 3)}
    else:
        sizes = [layer.kernel_size for layer in binary]
        assert (sizes.count((3, 3)), sizes.count((1, 1))) == (13, 18)
    network = {"reactnet18": "reactnet18", "reactnet_a": "reactnetA"}[name]
    shapes = golden.INDEX["networks"][f"{network}_bf_Qaw_imagenet"].values()
    assert model.count_params() == sum(np.prod(shape) for shape in shapes)


@pytest.mark.parametrize("name", ["tiny", "tiny_a"])
def test_step_1_has_the_weights_of_step_2(tiny, name):
    step1, step2 = tiny(name, binary_weights=False), tiny(name, binary_weights=True)
    assert _shapes(step1) == _shapes(step2)
    assert not any(_is_binary(layer) for layer in _convolutions(step1))
    signs = [x for x in _convolutions(step1) if x.input_quantizer is not None]
    assert len(signs) == sum(_is_binary(layer) for layer in _convolutions(step2))


@pytest.mark.parametrize("name", ["tiny", "tiny_a"])
def test_the_real_valued_twin_has_no_signs(tiny, name):
    binary, real = tiny(name), tiny(name, binary_activations=False)
    assert [w.shape for w in binary.weights] == [w.shape for w in real.weights]
    for layer in real.layers:
        assert getattr(layer, "input_quantizer", None) is None
        assert getattr(layer, "kernel_quantizer", None) is None


def test_real_downsample_kernels(tiny):
    binary = tiny().get_layer("stage2_unit1_downsample")
    real = tiny(binary_downsample=False).get_layer("stage2_unit1_downsample")
    assert binary.kernel.precision == 1
    assert real.kernel_quantizer is None
    assert binary.input_quantizer is real.input_quantizer is None


def test_alpha_reaches_every_block(tiny):
    for name in ("tiny", "tiny_a"):
        model = tiny(name, alpha=0.5)
        adds = [layer for layer in model.layers if "_add" in layer.name]
        assert {layer.alpha for layer in adds} == {0.5}
        twin = tiny(name, norm="batch", alpha=0.5)  # α belongs to the method.
        assert {x.alpha for x in twin.layers if "_add" in x.name} == {1.0}
        assert not any("_beta" in layer.name for layer in twin.layers)


def test_units_set_the_depth(tiny):
    model = tiny(units=3)
    names = {layer.name for layer in model.layers if layer.name.endswith("_add")}
    assert names == {f"stage{i}_unit{j}_add" for i in (1, 2) for j in (1, 2, 3)}
    describe = NetworkSpec
    assert describe("reactnet18", units=4) == describe("reactnet18")
    assert describe("reactnet34", units=6) != describe("reactnet34")


def test_betas_of_resnets_by_hand():
    """E grows by α² = 0.04 per unit but a stage's first; downsampling resets it."""
    stage = [1.0, 1.0, 1.04**-0.5, 1.08**-0.5]
    expected = [stage, *[[1.12**-0.5, *stage[1:]]] * 3]
    actual = stage_betas((4, 4, 4, 4), (False, True, True, True), 0.2)
    np.testing.assert_allclose(actual, expected, rtol=1e-14)
    # Without a downsampling shortcut the variance is carried on.
    actual = stage_betas((2, 2), (False, False), 0.2)
    np.testing.assert_allclose(actual, [[1, 1], [1.04**-0.5] * 2], rtol=1e-14)


def test_betas_of_reactnet_a_by_hand():
    strides = MobileNet().strides()
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    # Expected variances in front of each of the two convolutions.
    variances = [
        *[(1.0, 1.04), (1.08, 1.12)] * 3,
        *[(1.0, 1.04), (1.08, 1.12), (1.16, 1.20), (1.24, 1.28), (1.32, 1.36)],
        (1.40, 1.44),
        (1.0, 1.04),
    ]
    actual = list(mobile_betas(strides, 0.2))
    np.testing.assert_allclose(actual, np.array(variances) ** -0.5, rtol=1e-14)


def test_betas_are_in_the_network():
    model = zoo.create_model("reactnet18", width=2, stem="cifar", num_classes=3)
    scales = {x.name: x.factor for x in model.layers if x.name.endswith("_beta")}
    assert len(scales) == 2 + 3 * 3  # None for a β of 1.
    np.testing.assert_allclose(scales["stage1_unit4_beta"], 1.08**-0.5)
    np.testing.assert_allclose(scales["stage2_unit1_beta"], 1.12**-0.5)


def test_initial_kernels(tiny):
    """PyTorch's default for real kernels, small positive ones behind a sign."""
    model = tiny(width=32)
    kernels = {
        layer.name: layer.kernel.numpy()
        for layer in model.layers
        if hasattr(layer, "kernel")
    }
    for name, kernel in kernels.items():
        low, high = kernel.min(), kernel.max()
        if name.endswith(("conv", "classifier")):
            bound = 1e-3 if name.endswith("conv") else kernel.shape[0] ** -0.5
            expected = 0 if name.endswith("conv") else -bound
        else:
            bound = np.prod(kernel.shape[:3]) ** -0.5
            expected = -bound
        assert expected <= low < expected + 0.3 * bound, name
        assert 0.7 * bound < high <= bound, name
    # No two layers start alike, and no two networks.
    a, b = [kernels[f"stage2_unit{i}_conv"][:, :, :32] for i in (1, 2)]
    assert np.any(a != b)
    assert np.any(tiny(width=32).get_layer("stem").kernel.numpy() != kernels["stem"])


def test_initialization_is_reproducible(tiny):
    def weights():
        tf.keras.utils.set_random_seed(5)
        return tiny().get_weights()

    for a, b in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- Arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_default_input_shape(tiny, stem):
    model = tiny(stem=stem, input_shape=None)
    size = {"imagenet": 224, "cifar": 32}[stem]
    assert model.input_shape == (None, size, size, 3)


@pytest.mark.parametrize(("name", "channels"), [("tiny", 8), ("tiny_a", 16)])
def test_without_top(tiny, name, channels):
    model = tiny(name, include_top=False)
    assert model.output_shape == (None, 4, 4, channels)
    assert "classifier" not in [layer.name for layer in model.layers]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny_a"])
def test_images_of_any_size(tiny, name):
    model = tiny(name, input_shape=(None, None, 3), include_top=False)
    fixed = tiny(name, include_top=False, input_shape=(12, 8, 3))
    fixed.set_weights(model.get_weights())
    x = _images(2, 12, 8, 3)
    assert model.output_shape[1:3] == (None, None)
    np.testing.assert_array_equal(model(x), fixed(x))
    with_top = tiny(name, input_shape=(None, None, 3))
    assert with_top(x).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", ["tiny", "tiny_a"])
@pytest.mark.parametrize("norm", ["free", "batch"])
def test_channels_are_last_whatever_keras_prefers(tiny, name, norm, stem):
    arguments = {"norm": norm, "stem": stem, "input_shape": (32, 32, 3)}
    expected = tiny(name, **arguments)
    tf.keras.backend.set_image_data_format("channels_first")
    try:
        model = tiny(name, **arguments)
    finally:
        tf.keras.backend.set_image_data_format("channels_last")
    model.set_weights(expected.get_weights())
    images = _images(2, 32, 32, 3)
    np.testing.assert_allclose(model(images), expected(images), rtol=1e-5)


def test_other_numbers_of_channels(tiny):
    assert tiny(input_shape=(8, 8, 1))(_images(2, 8, 8, 1)).shape == (2, 3)


def test_input_tensor(tiny):
    image = tf.keras.Input((8, 8, 3))
    model = tiny(input_tensor=image, input_shape=None)
    assert model.input is image
    # An intermediate one: the model starts at its source.
    scaled = tf.keras.layers.Rescaling(1 / 255)(image)
    with_scaling = tiny(input_tensor=scaled, input_shape=(8, 8, 3))
    assert with_scaling.input is image
    with_scaling.set_weights(model.get_weights())
    x = _images(2, 8, 8, 3)
    np.testing.assert_allclose(with_scaling(255 * x), model(x), atol=1e-5)


def test_classifier_activation(tiny):
    x = _images(2, 8, 8, 3)
    logits = tiny(classifier_activation=None)
    weights = logits.get_weights()
    for activation in ("softmax", "sigmoid", tf.nn.softmax):
        model = tiny(classifier_activation=activation)
        model.set_weights(weights)
        function = (
            getattr(tf.nn, activation) if isinstance(activation, str) else activation
        )
        np.testing.assert_allclose(model(x), function(logits(x)), rtol=1e-5)


def test_numbers_of_numpy(tiny):
    model = tiny(alpha=np.float32(0.25), num_classes=np.int64(5), width=np.int64(4))
    assert model.output_shape == (None, 5)
    assert model.get_layer("stage1_unit1_add").alpha == 0.25
    tf.keras.models.model_from_json(model.to_json())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*mixed_float16.*")
@pytest.mark.parametrize("norm", ["free", "batch"])
@pytest.mark.parametrize(
    "policy",
    ["float64", "float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16"],
)
def test_every_policy_trains(tiny, policy, norm):
    tf.keras.mixed_precision.set_global_policy(policy)
    for name in ("tiny", "tiny_a") if norm == "free" else ("one_unit",):
        model = tiny(name, norm=norm)
        # Probabilities in half precision would be too coarse for their logarithm.
        assert model.output.dtype == ("float64" if policy == "float64" else "float32")
        exclude = [model.get_layer("classifier")]
        optimizer = AdaptiveGradientClipping("adam", exclude=exclude)
        model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)
        for _ in range(2):
            loss = model.train_on_batch(_images(4, 8, 8, 3), np.arange(4) % 3)
            assert np.isfinite(loss)
        weights = [w.astype("float32") for w in model.get_weights()]
        assert all(np.all(np.isfinite(w)) for w in weights)


@pytest.mark.slow
def test_trains_with_xla(tiny):
    x, y = _images(8, 8, 8, 3), np.arange(8) % 3
    losses = []
    for jit_compile in (True, False):
        tf.keras.utils.set_random_seed(1)
        model = tiny("one_unit")
        optimizer = AdaptiveGradientClipping(tf.keras.optimizers.SGD(0.1))
        loss = "sparse_categorical_crossentropy"
        model.compile(optimizer, loss, jit_compile=jit_compile)
        losses.append([model.train_on_batch(x, y) for _ in range(2)])
    np.testing.assert_allclose(*losses, rtol=1e-3)


# --- Independence of the batch --------------------------------------------------------


def _gradients_of(model, x, loss_of_logits):
    """Logits, and gradients of images and weights."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = model(x, training=True)
        loss = loss_of_logits(logits)
    gradients = tape.gradient(loss, [x, *model.trainable_variables])
    return logits.numpy(), [g.numpy() for g in gradients]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["tiny", "tiny_a"])
@pytest.mark.parametrize("norm", ["free", "batch"])
def test_a_sample_and_the_rest_of_its_batch(tiny, name, norm):
    """In training mode, BN-free, the others do not matter; with BN they do."""
    model = tiny(
        name,
        norm=norm,
        num_classes=5,
        input_shape=(16, 16, 3),
        classifier_activation=None,
    )
    sample = rng.normal(size=(1, 16, 16, 3))
    cotangent = rng.normal(size=5)
    logits, gradients = [], []
    for others in (1, 2, 5):
        batch = np.concatenate([sample, 3 * rng.normal(size=(others, 16, 16, 3))])
        y, (dx, *dw) = _gradients_of(
            model, batch, lambda logits: tf.reduce_sum(logits[0] * cotangent)
        )
        logits.append(y[0])
        gradients.append(np.concatenate([dx[0].ravel(), *[g.ravel() for g in dw]]))
    spread = np.ptp(logits, axis=0).max() / np.abs(logits).max()
    gradient_spread = np.ptp(gradients, axis=0).max() / np.abs(gradients).max()
    independent = max(spread, gradient_spread) < 1e-10
    assert independent == (norm == "free"), (spread, gradient_spread)
    if norm == "batch":
        assert min(spread, gradient_spread) > 0.01


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("norm", ["free", "batch"])
def test_one_batch_of_32_and_two_of_16(norm):
    """Accumulated gradients give the same step, BN-free."""
    x, y = rng.normal(size=(32, 16, 16, 3)), rng.integers(0, 5, 32)
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(batches):
        tf.keras.utils.set_random_seed(1)
        model = zoo.create_model(
            "reactnet18",
            norm=norm,
            width=4,
            stem="cifar",
            num_classes=5,
            input_shape=(16, 16, 3),
            classifier_activation=None,
        )
        variables = model.trainable_variables
        total = [np.zeros(v.shape) for v in variables]
        for batch in batches:
            _, (_, *gradients) = _gradients_of(
                model, x[batch], lambda logits, b=batch: cross_entropy(y[b], logits)
            )
            for t, g in zip(total, gradients, strict=True):
                t += g / len(batches)
        optimizer = AdaptiveGradientClipping(
            tf.keras.optimizers.SGD(0.1), exclude=[model.get_layer("classifier")]
        )
        pairs = zip(map(tf.constant, total), variables, strict=True)
        optimizer.apply_gradients(pairs)
        return np.concatenate([v.numpy().ravel() for v in variables])

    once = step([slice(0, 32)])
    accumulated = step([slice(0, 16), slice(16, 32)])
    same = np.abs(once - accumulated).max() < 1e-12
    assert same == (norm == "free")


# --- Saving ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm", "file"),
    [
        *[("tiny", "free", file) for file in ("m.keras", "m.h5")],
        *[("tiny", "batch", file) for file in ("m.keras", "m.h5")],
        *[("tiny_a", "free", file) for file in ("m.keras", "m.h5")],
        ("one_unit", "free", "m"),  # SavedModels take long.
        ("one_unit", "batch", "m"),
    ],
)
def test_saves_and_loads(tiny, name, norm, file, tmp_path):
    model = randomized(tiny(name, norm=norm))
    model.save(tmp_path / file)
    loaded = tf.keras.models.load_model(tmp_path / file)
    assert [type(x) for x in loaded.layers] == [type(x) for x in model.layers]
    assert_same_weights(loaded, model)
    if norm == "free":  # Keras drops the layer's name from batch norms' weights.
        assert _shapes(loaded) == _shapes(model)
    x = _images(2, 8, 8, 3)
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)
    assert loaded.get_layer("stem").get_config() == model.get_layer("stem").get_config()


# --- Wrong arguments ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "reactnet50"},
            r"`name` must be one of 'reactnet18', .*Fix: .*list_mod",
        ),
        ({"name": None}, r"`name` must be one of .*Received: name=None"),
        ({"norm": "layer"}, r"`norm` must be one of 'free', 'batch', 'none'.*'layer'"),
        ({"stem": "mnist"}, r"`stem` must be one of 'imagenet', 'cifar'.*'mnist'"),
        ({"alpha": 0}, r"`alpha` must be a positive number.*alpha=0\. Fix: 0\.2"),
        ({"alpha": "0.2"}, r"`alpha` must be a positive number.*alpha='0\.2'"),
        ({"alpha": float("nan")}, r"`alpha` must be a positive number.*nan"),
        ({"alpha": float("inf")}, r"`alpha` must be a positive number.*inf"),
        (
            {"num_classes": 0},
            r"`num_classes` must be a positive integer.*Fix: 10 for CI",
        ),
        ({"num_classes": 2.5}, r"`num_classes` must be a positive integer.*2\.5"),
        ({"num_classes": True}, r"`num_classes` must be a positive integer.*True"),
        ({"width": -1}, r"`width` must be a positive integer.*Fix: 4 is the published"),
        ({"units": 0}, r"`units` must be a positive integer.*Fix: 2 is the most"),
        ({"units": 1.5}, r"`units` must be a positive integer.*1\.5"),
        ({"name": "tiny_a", "units": 2}, r"`units` must be left out.*'tiny_a'"),
        (
            {"include_top": "no"},
            r"`include_top` must be one of True, False.*Fix: pass a",
        ),
        (
            {"binary_weights": None},
            r"`binary_weights` must be one of True, False.*None",
        ),
        (
            {"binary_downsample": 2},
            r"`binary_downsample` must be one of True, False.*2",
        ),
        (
            {"classifier_activation": "max"},
            r"`classifier_activation` must .*'max'\. Fix",
        ),
        ({"classifier_activation": 5}, r"`classifier_activation` must be a Keras .*=5"),
        (
            {"input_shape": (9, 8, 3)},
            r"multiples of 2 .*\(9, 8, 3\).*Fix: resize or crop",
        ),
        (
            {"input_shape": (8, 8)},
            r"`input_shape` must be \(height, width, chan.*Fix: say .*\(8, 8, 3\)",
        ),
        ({"input_shape": (8, 8, None)}, r"`input_shape` must be .*\(8, 8, None\)"),
        ({"input_shape": (0, 8, 3)}, r"`input_shape` must be .*\(0, 8, 3\)"),
        ({"input_shape": (8.0, 8, 3)}, r"`input_shape` must be .*\(8\.0, 8, 3\)"),
        ({"input_shape": 8}, r"`input_shape` must be .*Received: 8"),
        ({"input_shape": "8x8x3"}, r"`input_shape` must be .*Received: 8x8x3"),
    ],
    ids=str,
)
def test_wrong_arguments(tiny, arguments, message):
    with pytest.raises(UserError, match=message):
        tiny(**arguments)


@pytest.mark.parametrize(("name", "stride"), [("reactnet18", 32), ("reactnet_a", 32)])
def test_sizes_must_be_divisible_by_the_strides(name, stride):
    message = rf"multiples of {stride} .*Received: \(40, 64, 3\).*or use the CIFAR stem"
    with pytest.raises(UserError, match=message):
        zoo.create_model(name, input_shape=(40, 64, 3))
    message = rf"multiples of {stride // 4 if name == 'reactnet18' else stride // 2} "
    with pytest.raises(UserError, match=message):
        zoo.create_model(name, input_shape=(20, 32, 3), stem="cifar")


def test_input_tensors_must_fit(tiny):
    with pytest.raises(
        UserError, match=r"must agree.*\(16, 16, 3\).*Fix: leave out inp"
    ):
        tiny(input_tensor=tf.keras.Input((8, 8, 3)), input_shape=(16, 16, 3))
    with pytest.raises(UserError, match=r"multiples of 2 .*Received: \(9, 8, 3\)"):
        tiny(input_tensor=tf.keras.Input((9, 8, 3)), input_shape=None)
    with pytest.raises(
        UserError, match=r"must be a Keras tensor.*ndarray.*Fix: for exa"
    ):
        tiny(input_tensor=_images(2, 8, 8, 3), input_shape=None)
