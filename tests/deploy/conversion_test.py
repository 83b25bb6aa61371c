"""Files of Larq Compute Engine and TFLite compute what the model computes."""

import os
import subprocess
import sys

import larq as lq
import numpy as np
import pytest
import tensorflow as tf
from deploying import functional, images_for, network, relative

from larq_nobn import UserError, deploy, layers, zoo
from larq_nobn.deploy import conversion
from larq_nobn.deploy.checking import ensure_explained
from larq_nobn.deploy.compaction import compact
from larq_nobn.deploy.convolutions import _well_rounded
from larq_nobn.deploy.flatbuffer import Flatbuffer

pytestmark = pytest.mark.lce

SIGN = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
CONVERTED = [
    ("reactnet18", "free", 16),
    ("reactnet18", "batch", 16),
    ("reactnet18", "none", 16),
    ("reactnet34", "free", 32),
    ("reactnet_a", "free", 31),
    ("reactnet_a", "batch", 31),
    ("abnet_a", "free", 31),
    ("birealnet18", "batch", 16),
    ("xnornet18", "batch", 16),
]
# Nothing multiplies, pads or subtracts by itself.
FOLDED_AWAY = {"MUL", "SUB", "DIV", "NEG", "PAD", "PADV2", "LceDequantize"}


def kinds(content):
    return [op.kind for op in Flatbuffer(content).operators()]


@pytest.fixture(scope="module")
def exported():
    """A network with softmax, its file, and images."""
    model = network(classifier_activation="softmax", input_shape=(24, 24, 3))
    return model, deploy.convert(model), images_for(model, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm", "count"), CONVERTED)
def test_networks_convert_whole_and_exactly(name, norm, count):
    # So large that no feature map is smaller than its kernel.
    size = 48 if name.endswith("_a") else 24
    model = network(name, norm, input_shape=(size, size, 3))
    content = deploy.convert(model)
    assert kinds(content).count("LceBconv2d") == count
    assert not FOLDED_AWAY & {*kinds(content)}
    result = deploy.check(model, content, images_for(model, 12))
    assert result.passed, str(result)
    assert result.images == 12
    assert len(result.flips) == kinds(content).count("LceQuantize")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["xcore", "tflite"])
@pytest.mark.parametrize("name", ["reactnet18", "reactnet_a"])
def test_other_targets(name, target):
    model = network(name, stem="imagenet", input_shape=(64, 32, 3))
    content = deploy.convert(model, target)
    expected = {"reactnet18": 16, "reactnet_a": 31}[name] if target == "xcore" else 0
    assert kinds(content).count("LceBconv2d") == expected
    result = deploy.check(model, content, images_for(model, 6))
    assert result.passed, str(result)


@pytest.mark.slow
@pytest.mark.parametrize("target", deploy.TARGETS)
@pytest.mark.parametrize(
    ("size", "kernel", "arguments"),
    [
        ((8, 8), 3, {"strides": 1, "padding": "symmetric"}),
        ((8, 8), 3, {"strides": 2, "padding": "symmetric"}),
        ((9, 6), 3, {"strides": 2, "padding": "symmetric"}),
        ((9, 6), 3, {"strides": 2, "padding": "same"}),
        ((7, 8), 5, {"strides": 2, "padding": "symmetric"}),
        ((8, 8), 1, {"strides": 2}),
        ((8, 8), 3, {"dilation_rate": 2, "padding": "same"}),
        # Smaller than the kernel, where the runtime's own zero padding is wrong.
        ((2, 2), 3, {"padding": "symmetric"}),
        ((2, 2), 3, {"strides": 2, "padding": "symmetric"}),
        ((1, 1), 3, {"padding": "same"}),
        ((8, 4), 3, {"dilation_rate": 2, "padding": "same"}),
        ((8, 8), 3, {"padding": "same", "pad_values": 1}),
        ((8, 8), 3, {"padding": "same", "pad_values": -1, "strides": 2}),
    ],
)
def test_convolutions_are_exact_to_the_integer(size, kernel, arguments, target):
    symmetric = arguments.get("padding") == "symmetric"
    cls = layers.QuantConv2D if symmetric else lq.layers.QuantConv2D
    conv = cls(40, kernel, **SIGN, use_bias=False, **arguments)
    model = functional(conv, shape=(*size, 33))
    images = images_for(model)
    result = deploy.Runner(deploy.convert(model, target)).predict(images)
    np.testing.assert_array_equal(result, model(images))
    assert np.array_equal(result, np.rint(result))


@pytest.mark.slow
def test_zeros_around_the_image_stay_zeros(exported):
    """A file that padded with ones would differ in every image."""
    model, content, images = exported
    ones = tf.keras.models.clone_model(
        model,
        clone_function=lambda layer: (
            type(layer).from_config({**layer.get_config(), "pad_values": 1.0})
            if getattr(layer, "input_quantizer", None)
            else type(layer).from_config(layer.get_config())
        ),
    )
    zoo.transfer_weights(model, ones)
    assert deploy.check(ones, content, images).unexplained == len(images)


def test_the_last_operators_of_a_block_are_five(exported):
    _, content, _ = exported
    blocks = deploy.report(content).blocks()
    assert len(blocks) == 16
    plain = ["ADD", "ADD", "LceBconv2d", "LceQuantize", "PRELU"]
    assert blocks["stage1_unit3"] == plain
    assert blocks["stage2_unit1"] == sorted([*plain, "AVERAGE_POOL_2D", "CONV_2D"])


def test_layers_that_stay_float_by_consent():
    model = network(binary_weights=False)
    content = deploy.convert(model, allow_float=True)
    assert "LceBconv2d" not in kinds(content)
    result = deploy.check(model, content, images_for(model, 6))
    assert result.passed, str(result)


def test_what_the_converter_leaves_float_is_an_error(monkeypatch):
    convs = [layers.QuantConv2D(4, 1, **SIGN, name=name) for name in "ab"]
    model = functional(*convs)
    plain = deploy.convert(model, "tflite")

    class Converter:
        @staticmethod
        def convert_saved_model(folder, target):
            return plain

    monkeypatch.setattr(conversion, "import_compute_engine", lambda: Converter)
    match = "All 2 binary .*Received: a, b left float by Larq's .*target='arm'"
    with pytest.raises(UserError, match=match):
        deploy.convert(model)
    assert kinds(deploy.convert(model, allow_float=True)) == kinds(plain)


def test_without_compute_engine(exported, monkeypatch):
    model, content, _ = exported
    monkeypatch.setitem(sys.modules, "larq_compute_engine", None)
    with pytest.raises(UserError, match=r"pip install 'larq_nobn\[deploy\]'"):
        deploy.convert(model)
    with pytest.raises(UserError, match="Larq Compute Engine must be installed"):
        deploy.Runner(content)


def test_half_precision_is_refused():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    model = network()
    with pytest.raises(UserError, match="must compute in float32. .*'mixed_float16'"):
        deploy.convert(model)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["arm", "tflite"])
def test_operators_that_tflite_does_not_have(target):
    def orthogonal(x):
        return tf.linalg.qr(x)[0]

    model = functional(tf.keras.layers.Conv2D(4, 1, activation=orthogonal, name="c"))
    match = "operators that TFLite has. Received: .*Qr.* Fix: use another activation"
    with pytest.raises(UserError, match=match):
        deploy.convert(model, target)


@pytest.mark.parametrize("name", [b"LceNothing", b"Nothing"])
def test_operators_that_no_runtime_knows(name):
    model = functional(tf.keras.layers.Conv2D(4, 1))
    file = Flatbuffer(deploy.convert(model, "tflite"))
    for code in file.model.operatorCodes:
        code.builtinCode = code.deprecatedBuiltinCode = 32
        code.customCode = name
    with pytest.raises(UserError, match="must hold operators that this machine's int"):
        deploy.Runner(file.pack())


def test_files_that_are_none(exported):
    _, content, _ = exported
    for broken in (b"", b"no flatbuffer at all", content[:100], b"\0\0\0\0TFL3" * 9):
        with pytest.raises(UserError, match=f"flatbuffer. Received: {len(broken)} byt"):
            deploy.Runner(broken)


def test_images_of_the_wrong_size(exported):
    model, content, images = exported
    match = r"shape \(count, 24, 24, 3\) .*Received: \(8, 23, 24, 3\)"
    with pytest.raises(UserError, match=match):
        deploy.Runner(content).predict(images[:, 1:])
    with pytest.raises(UserError, match=r"Received: \(24, 24, 3\)"):
        deploy.check(model, content, images[0])
    with pytest.raises(UserError, match=r"Received: \(0, 24, 24, 3\)"):
        deploy.check(model, content, images[:0])


# --------------------------------------------------------------------- the check


def test_runner_gives_probabilities(exported):
    model, content, images = exported
    expected = model(images).numpy()
    for options in ({}, {"threads": 2}, {"indirect": True}):
        result = deploy.Runner(content, **options).predict(images)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_check_notices_another_network(exported):
    model, content, images = exported
    other = tf.keras.models.clone_model(model)
    zoo.transfer_weights(model, other)
    scale = other.get_layer("stage3_unit2_conv").gain
    scale.assign(scale * 1.01)
    result = deploy.check(other, content, images)
    assert result.unexplained == result.deviating == len(images)
    assert not result.passed
    with pytest.raises(UserError, match="8 of 8 images deviate by more than 1e-05"):
        ensure_explained(result)


def test_check_traces_flipped_signs(exported):
    """Push the activation that is nearest to zero across it: it is named."""
    model, content, _ = exported
    images = images_for(model, 128)
    shifted = tf.keras.models.clone_model(model)
    zoo.transfer_weights(model, shifted)
    shift = shifted.get_layer("stage2_unit2_shift")
    x = tf.keras.Model(shifted.inputs, shift.output)(images).numpy()
    *_, channel = np.unravel_index(np.abs(x).argmin(), x.shape)
    bias = shift.bias.numpy()
    bias[channel] -= 1.5 * x.flat[np.abs(x).argmin()]
    shift.bias.assign(bias)
    result = deploy.check(shifted, content, images)
    flips = next(f for f in result.flips if f.layer == "stage2_unit2_conv")
    assert flips.first >= 1
    assert flips.signs == x.size
    assert 0 < flips.largest < 1e-5
    assert result.deviating >= 1
    assert result.unexplained == 0
    assert "stage2_unit2_conv: " in str(result)
    ensure_explained(result)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["free", "batch", "none"])
def test_sums_of_zero_count_as_positive_everywhere(norm):
    """XNOR-Net without batch norm: binary sums that are 0, right in front of a sign."""
    model = network("xnornet18", norm)
    images = images_for(model)
    inner = tf.keras.Model(model.input, model.get_layer("stage1_unit1_conv1").output)
    zeros = inner(images).numpy() == 0
    assert zeros.mean() > 0.01
    result = deploy.check(model, deploy.convert(model), images)
    assert result.median < 1e-4
    first = [flips for flips in result.flips if flips.layer.endswith("conv2")]
    assert not any(flips.first for flips in first)


@pytest.mark.slow
def test_signs_of_normalized_sums_are_exact():
    """Thresholds nearer to a whole number than a sum in float32 can place them."""
    norm = tf.keras.layers.BatchNormalization()
    model = functional(
        layers.QuantConv2D(16, 3, **SIGN, use_bias=False),
        norm,
        lq.layers.QuantConv2D(8, 1, **SIGN, use_bias=False),
        shape=(8, 8, 33),
    )
    # Sums of 9 * 33 signs are odd; 3 is behind its threshold, or in front of it.
    signs = np.where(np.arange(16) % 2, 1.0, -1.0)
    norm.moving_mean.assign(3 - 2e-6 * signs)
    norm.beta.assign(np.zeros(16))
    norm.gamma.assign(np.linspace(0.1, 1.7, 16) * np.repeat([1, -1], 8))
    images = images_for(model, 16)
    result = deploy.Runner(deploy.convert(model)).predict(images)
    np.testing.assert_array_equal(result, model(images))


def test_multipliers_that_round_well():
    rng = np.random.default_rng(0)
    scale, shift = rng.uniform(0.001, 1, 1000), rng.normal(size=1000)

    def error(multiplier):
        multiplier, bias = np.float32(multiplier), np.float32(shift)
        bracket = np.float32(4608) * multiplier + bias
        exact = 4608 * multiplier.astype(float) + bias
        return np.abs(bracket - exact)

    chosen = _well_rounded(scale, shift, 4608)
    np.testing.assert_allclose(chosen, scale, rtol=2.0**-21)
    assert error(chosen).mean() < error(scale).mean() / 3


# ---------------------------------------------------------------- smaller kernels


@pytest.mark.slow
@pytest.mark.parametrize("float_weights", ["float16", "int8"])
def test_rounded_kernels(exported, float_weights):
    model, exact, images = exported
    small = compact(exact, float_weights)
    assert len(small) < len(exact)
    steps = {"float16": 2**-11, "int8": 1 / 254}[float_weights]
    for kernel, rounded in zip(_kernels(exact), _kernels(small), strict=True):
        largest = np.abs(kernel).max(axis=tuple(range(1, kernel.ndim)), keepdims=True)
        assert np.all(np.abs(kernel - rounded) <= 1.001 * steps * largest)
    # Rounding flips signs, so the outputs only resemble each other.
    assert relative(deploy.Runner(small).predict(images), model(images)) < 0.5


@pytest.mark.slow
def test_rounded_kernels_of_plain_tflite():
    model = functional(
        layers.ScaledWSConv2D(24, 3, strides=2, padding="symmetric"),
        layers.RPReLU(),
        tf.keras.layers.GlobalAveragePooling2D(),
        tf.keras.layers.Dense(100),
    )
    images = images_for(model)
    sizes = []
    for float_weights, tolerance in (("float32", 1e-6), ("int8", 0.1)):
        content = deploy.convert(model, "tflite", float_weights=float_weights)
        result = deploy.Runner(content).predict(images)
        assert relative(result, model(images)) < tolerance
        sizes.append(len(content))
    assert sizes == sorted(sizes, reverse=True)


def _kernels(content):
    """The kernels of float operators as the runtime sees them."""
    file = Flatbuffer(content)
    operators = file.operators()
    widened = {op.outputs[0].index: op for op in operators if op.kind == "DEQUANTIZE"}
    for op in operators:
        if op.kind in ("CONV_2D", "FULLY_CONNECTED"):
            kernel = op.inputs[1]
            if kernel.index in widened:
                yield _widen(file, widened[kernel.index].inputs[0])
            else:
                yield kernel.values


def _widen(file, tensor):
    values = tensor.values.astype(np.float32)
    if tensor.dtype == "float16":
        return values
    scale = file.graph.tensors[tensor.index].quantization.scale
    return values * scale.reshape(-1, *[1] * (values.ndim - 1))


@pytest.mark.slow
def test_binary_kernels_on_real_activations_are_small_and_exact(exported):
    model, content, _ = exported
    file = Flatbuffer(content)
    rows = {row.layer: row for row in deploy.report(content).rows if row.stored}
    row = rows["stage4_unit1_downsample"]
    assert row.stored == "int8"
    assert row.nbytes == 32 * 64 + 4 * 64
    layer = model.get_layer("stage4_unit1_downsample")
    with lq.context.quantized_scope(True):
        kernel = tf.convert_to_tensor(layer.kernel) * layer.gain
    stored = next(
        op.inputs[0]
        for op in file.operators()
        if op.kind == "DEQUANTIZE" and op.inputs[0].shape == (64, 1, 1, 32)
    )
    # Up to the stream's scale, which is one number, and the order of the axes.
    ratio = _widen(file, stored).transpose(1, 2, 3, 0) / kernel.numpy()
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-6)


def test_weights_are_aligned(exported):
    from tensorflow.lite.python import schema_py_generated as schema

    _, content, _ = exported
    root = schema.Model.GetRootAs(content, 0)
    field = 4  # `data` in the table of a buffer
    starts = [
        buffer._tab.Vector(buffer._tab.Offset(field))
        for buffer in map(root.Buffers, range(root.BuffersLength()))
        if buffer.DataLength()
    ]
    assert len(starts) > 50
    assert all(start % 16 == 0 for start in starts)


@pytest.mark.slow
def test_compacting_twice_changes_nothing(exported):
    _, content, _ = exported
    assert kinds(compact(content)) == kinds(content)
    with pytest.raises(UserError, match="`float_weights` must be one of 'float32', 'f"):
        deploy.convert(network(), float_weights="int4")


_CONVERT = """
import os
import subprocess
import sys
from larq_nobn import deploy, zoo
model = zoo.create_model(
    "reactnet18", stem="cifar", width=8, units=1, binary_activations={binary}
)
print("began", file=sys.stderr, flush=True)
deploy.convert(model, target="{target}")
print("ended", file=sys.stderr, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("target", "binary"), [("arm", True), ("tflite", False)])
def test_the_converters_log_is_not_shown(target, binary):
    """Nor is anything lost that comes behind it."""
    code = _CONVERT.format(target=target, binary=binary)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.stdout == ""
    assert run.stderr.partition("began\n")[2] == "ended\n"
