import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from larq_nobn import UserError, zoo
from larq_nobn.optimizers import AdaptiveGradientClipping
from larq_nobn.training.data import load_images
from larq_nobn.weights.arrays import write_npz
from larq_nobn.weights.packing import (
    binary_kernel,
    binary_layers,
    pack_weights,
    unpack_weights,
)
from larq_nobn.weights.transfer import assign_checked, named_weights

SMALL = {"stem": "cifar", "width": 8, "num_classes": 10, "input_shape": (16, 16, 3)}
NETWORKS = {
    "free": {"name": "reactnet18"},
    "batch": {"name": "reactnet18", "norm": "batch"},
    "none": {"name": "reactnet18", "norm": "none"},
    "real downsample": {
        "name": "reactnet18",
        "norm": "batch",
        "binary_downsample": False,
    },
    "A": {"name": "reactnet_a"},
    "A&B": {"name": "abnet18"},
    "Bi-Real Net": {"name": "birealnet18"},
}


@pytest.fixture(scope="module")
def small():
    return randomized(**SMALL, name="reactnet18")


@pytest.fixture(scope="module")
def packed(small):
    return pack_weights(small)


def build(**arguments):
    return zoo.create_model(**arguments, classifier_activation=None)


def randomized(**arguments):
    """A network whose weights, biases and gains all matter."""
    model = build(**arguments)
    rng = np.random.default_rng(0)
    for name, variable in named_weights(model).items():
        n = rng.standard_normal(variable.shape)
        positive = name.endswith(("gain", "moving_variance", "slope"))
        variable.assign(np.exp(0.1 * n) if positive else 0.1 * n)
    return model


def load(model, arrays):
    assign_checked(named_weights(model), unpack_weights(model, arrays), "The weights")


def effective(layer):
    kernel = binary_kernel(layer)
    return kernel * layer.gain.numpy() if hasattr(layer, "gain") else kernel


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_same_forward_pass(kind):
    arguments = {**SMALL, **NETWORKS[kind]}
    if arguments["name"] == "reactnet_a":
        arguments["input_shape"] = (32, 32, 3)
    model = randomized(**arguments)
    layers = binary_layers(model)
    assert len(layers) == {"A": 31, "real downsample": 16}.get(kind, 19)
    images = np.random.default_rng(1).standard_normal((4, *arguments["input_shape"]))
    images = images.astype(np.float32)
    signs = [np.sign(binary_kernel(layer)) for layer in layers]
    kernels = [effective(layer) for layer in layers]
    logits = model(images)
    load(model, pack_weights(model))
    for layer, sign, kernel in zip(layers, signs, kernels, strict=True):
        np.testing.assert_array_equal(np.sign(binary_kernel(layer)), sign)
        np.testing.assert_allclose(effective(layer), kernel, rtol=2e-6)
        # One bit: each channel holds two values.
        assert len(np.unique(kernel[..., 0])) == 2
    # Up to the rounding of float32, of logits that are sums of others' size, unless a
    # sign flips: not with this seed.
    atol = 1e-6 * np.max(np.abs(logits))
    np.testing.assert_allclose(model(images), logits, rtol=1e-5, atol=atol)


def test_bits_by_hand(small):
    """Against the definition: ±1 by the sign of the centred latent weight."""
    model = small
    arrays = pack_weights(model)
    kernel = named_weights(model)["stage2_unit2_conv/kernel"].numpy()
    centred = kernel - kernel.mean((0, 1, 2))
    bits = arrays["stage2_unit2_conv/kernel:bits"]
    assert bits.dtype == np.uint8
    assert bits.shape == (3 * 3 * 16 * 16 // 8,)
    positive = np.unpackbits(bits).reshape(kernel.shape)
    np.testing.assert_array_equal(positive, centred >= 0)
    magnitude = arrays["stage2_unit2_conv/kernel:magnitude"]
    np.testing.assert_allclose(magnitude, np.sqrt(np.mean(centred**2)), rtol=1e-5)
    # The gain makes up for what ±t changes in the mean of |ŵ|.
    share = positive.mean((0, 1, 2))
    unit = np.abs(centred).mean((0, 1, 2)) / (kernel.std((0, 1, 2)) + 1e-5)
    gain = named_weights(model)["stage2_unit2_conv/gain"].numpy().ravel()
    expected = gain * unit / np.sqrt(4 * share * (1 - share))
    actual = arrays["stage2_unit2_conv/gain"].ravel()
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


def test_everything_else_stays():
    model = randomized(**SMALL, name="reactnet18", norm="batch")
    arrays = pack_weights(model)
    for name, variable in named_weights(model).items():
        if f"{name}:bits" not in arrays:
            np.testing.assert_array_equal(arrays[name], variable.numpy())


@pytest.mark.parametrize("norm", ["free", "none"])
def test_constant_channel(norm):
    """A dead channel convolves with zeros (or its constant), packed or not."""
    arguments = {**SMALL, "name": "reactnet18", "norm": norm}
    model = randomized(**arguments)
    layer = model.get_layer("stage1_unit1_conv")
    kernel = layer.kernel.numpy()
    kernel[..., 3] = 0.25
    kernel[..., 4] = 0
    layer.kernel.assign(kernel)
    expected = effective(layer)
    load(model, pack_weights(model))
    np.testing.assert_allclose(effective(layer), expected, rtol=2e-6)


def test_magnitudes_add_up_in_float32():
    """4,608 equal numbers of float32 do not sum to 4,608 times one of them."""
    model = build(name="reactnet18", norm="none", stem="cifar", num_classes=10)
    layer = model.get_layer("stage4_unit4_conv")
    assert layer.kernel.shape[:3].num_elements() == 4608
    expected = effective(layer)
    load(model, pack_weights(model))
    np.testing.assert_allclose(effective(layer), expected, rtol=2e-6)
    # What it is for:
    scale = expected.max((0, 1, 2))
    naive = np.where(expected > 0, scale, -scale)
    layer.kernel.assign(naive)
    assert np.abs(effective(layer) / expected - 1).max() > 5e-6


def test_half_precision_classifier():
    model = randomized(**SMALL, name="reactnet18")
    arrays = pack_weights(model, "float16")
    assert arrays["classifier/kernel"].dtype == np.float16
    assert arrays["classifier/bias"].dtype == np.float32
    images = np.random.default_rng(1).standard_normal((4, 16, 16, 3)).astype("f4")
    expected = model(images)
    load(model, arrays)
    np.testing.assert_allclose(model(images), expected, rtol=0.01, atol=1e-3)


@pytest.mark.slow
def test_size(tmp_path):
    """ReActNet-A's is checked end to end."""
    model = build(name="reactnet18", stem="cifar", num_classes=10)
    sizes = {}
    for dtype in ("float32", "float16"):
        path = tmp_path / f"{dtype}.npz"
        write_npz(path, pack_weights(model, dtype), compress=True)
        sizes[dtype] = path.stat().st_size
    assert sizes["float32"] < 1.8e6
    # Two bytes less for each of the classifier's weights; random ones do not deflate.
    assert sizes["float16"] < sizes["float32"] - 1.8 * 512 * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update({"x/kernel:bits": np.zeros(1, np.uint8)}),
            "'x/kernel:bits'",
        ),
        (lambda a: a.pop("stage1_unit1_conv/kernel:magnitude"), "must fit the model's"),
        (lambda a: a.pop("stage1_unit1_conv/kernel:bits"), "1 missing.*1 unexpected"),
        (
            lambda a: a.update(
                {"stage1_unit1_conv/kernel:bits": np.zeros(71, np.uint8)}
            ),
            r"of shape \(71,\)",
        ),
        (
            lambda a: a.update({"stage1_unit1_conv/kernel": np.zeros((3, 3, 8, 8))}),
            "must fit the model's binary kernels",
        ),
        (
            lambda a: a.update(
                {"stage1_unit1_conv/kernel:magnitude": np.float32(np.nan)}
            ),
            "must be finite",
        ),
    ],
)
def test_wrong_arrays(small, change, message):
    model = small
    arrays = pack_weights(model)
    change(arrays)
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        load(model, arrays)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(
        ["stem/kernel", "stage1_unit1_conv/kernel", "classifier/bias"]
    ),
    suffixes=st.sets(st.sampled_from(["", ":bits", ":magnitude", ":bits:bits"])),
    dtype=st.sampled_from([np.float16, np.float64, np.uint8, np.int64, np.bool_]),
    shape=st.sampled_from([(), (8,), (72,), (10,), (3, 3, 8, 8), (3, 3, 3, 8), (0,)]),
    value=st.sampled_from([0, 1, -1, 1e300, np.nan, np.inf]),
)
@pytest.mark.filterwarnings("ignore:invalid value|overflow:RuntimeWarning")
def test_fuzz(small, packed, name, suffixes, dtype, shape, value):
    """Whatever the arrays are: all of the weights, or none and our own error."""
    arrays = dict(packed)
    for suffix in suffixes:
        arrays[name + suffix] = np.full(shape, value).astype(dtype)
    before = small.get_weights()
    try:
        load(small, arrays)
    except UserError:
        for variable, expected in zip(small.weights, before, strict=True):
            np.testing.assert_array_equal(variable, expected)
    for variable in small.weights:
        assert np.isfinite(variable).all()


@pytest.mark.slow
def test_packed_weights_can_be_trained_further():
    """Train on digits, replace the weights by packed ones, and go on from those."""
    images = load_images("digits")
    x, x_test = (
        zoo.preprocess_input(part, "digits")
        for part in (images.train[0], images.test[0])
    )
    y, y_test = images.train[1], images.test[1]
    model = build(
        name="reactnet18",
        stem="cifar",
        width=8,
        num_classes=10,
        input_shape=(8, 8, 1),
    )
    exclude = [model.get_layer("classifier")]
    optimizer = AdaptiveGradientClipping(
        tf.keras.optimizers.Adam(4e-3), 0.1, exclude=exclude
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)

    def accuracy():
        return np.mean(np.argmax(model(x_test), axis=1) == y_test)

    def signs():
        return binary_kernel(model.get_layer("stage1_unit1_conv")) > 0

    before = model.fit(x, y, batch_size=32, epochs=2, verbose=0).history["loss"]
    trained_accuracy, logits = accuracy(), model(x_test)
    arrays = pack_weights(model)
    load(model, arrays)
    assert len(np.unique(model.get_layer("stage1_unit1_conv").kernel)) == 2
    np.testing.assert_allclose(np.median(np.abs(model(x_test) - logits)), 0, atol=1e-5)
    assert accuracy() == pytest.approx(trained_accuracy, abs=0.02)

    # A fresh optimizer; the same object, to save the compilation of another.
    for variable in optimizer.variables:
        if variable.shape.rank:
            variable.assign(tf.zeros_like(variable))
    optimizer.learning_rate = 2e-3
    packed_signs = signs()
    after = model.fit(x, y, batch_size=32, epochs=3, verbose=0).history["loss"]
    assert after[-1] < 0.7 * before[-1]
    assert accuracy() > trained_accuracy
    # The binary weights themselves move on, not just the real ones around them.
    assert 0.01 < np.mean(packed_signs != signs()) < 0.5
