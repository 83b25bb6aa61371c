"""Files for plain TFLite under TensorFlow Lite Micro, the runtime itself."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf
from deploying import (
    functional,
    images_for,
    network,
    relative,
    run_micro,
    run_micro_all,
)
from every_layer_test import CASES

from larq_nobn import UserError, deploy, layers
from larq_nobn.deploy.compaction import compact
from larq_nobn.deploy.flatbuffer import Flatbuffer
from larq_nobn.deploy.runtime import quantized
from larq_nobn.deploy.survey import randomize

pytestmark = pytest.mark.lce


def kinds(content):
    return [op.kind for op in Flatbuffer(content).operators()]


# ------------------------------------------------------------------------- in float


@pytest.mark.parametrize(
    ("name", "norm", "float_weights"),
    [
        ("reactnet18", "free", "float32"),
        ("reactnet18", "free", "int8"),
        ("reactnet18", "batch", "float32"),
        pytest.param("birealnet18", "batch", "float32", marks=pytest.mark.slow),
        pytest.param("xnornet18", "batch", "int8", marks=pytest.mark.slow),
        pytest.param("reactnet_a", "free", "float32", marks=pytest.mark.slow),
    ],
)
def test_networks(name, norm, float_weights):
    units = {} if name == "reactnet_a" else {"units": 1}
    size = 32 if name == "reactnet_a" else 16
    model = network(name, norm, input_shape=(size, size, 3), **units)
    images = images_for(model, 2)
    content = deploy.convert(model, "tflite", float_weights=float_weights)
    assert "DEQUANTIZE" in kinds(content)
    expected = deploy.Runner(content).predict(images)
    assert relative(run_micro(content, images), expected) < 3e-6
    if float_weights == "float32":
        assert relative(expected, model(images)) < 3e-6


def test_scales_of_channels_are_multiplied_behind():
    """Also in front of biases and activations, and not where all are the same."""
    same = lq.layers.QuantConv2D(8, 3, kernel_quantizer="ste_sign", use_bias=False)
    model = functional(
        same,
        tf.keras.layers.Conv2D(9, 3, activation="relu"),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(7, activation="relu"),
        tf.keras.layers.Dense(6, use_bias=False),
    )
    images = images_for(model)
    content = deploy.convert(model, "tflite", float_weights="int8")
    behind = ["DEQUANTIZE", "CONV_2D"]
    behind += [*behind, "MUL", "ADD", "RESHAPE"]
    dense = ["DEQUANTIZE", "FULLY_CONNECTED", "MUL"]
    assert kinds(content) == [*behind, *dense, "ADD", *dense], kinds(content)
    # One scale each, as the runtime ignores all others.
    file = Flatbuffer(content)
    for op in file.operators():
        if op.kind == "DEQUANTIZE":
            stored = file.graph.tensors[op.inputs[0].index]
            assert len(stored.quantization.scale) == 1
    widest = compact(deploy.convert(model, "tflite"), "int8")
    expected = deploy.Runner(content).predict(images)
    assert relative(deploy.Runner(widest).predict(images), expected) < 1e-6
    assert relative(run_micro(content, images), expected) < 1e-6
    # What the scales per channel would have become.
    assert relative(run_micro(widest, images), expected) > 1e-2


# Repeated rows are a concatenation of more parts than it takes, or a TILE.
NOT_RUN = {"row: up", "vector: repeat"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "row", "vector"])
def test_every_layer(kind):
    """One file of all layers, but for those that Keras does not run on a CPU."""
    cases = [
        (name, shape, make)
        for name, shape, make in CASES
        if name.startswith(kind) and name not in {*NOT_RUN, "image: grouped"}
    ]
    x = tf.keras.Input(cases[0][1])
    shifted = layers.LearnableBias()(x)
    model = tf.keras.Model(x, [make()(shifted) for _, _, make in cases])
    randomize(model)
    images = images_for(model, 2)
    content = deploy.convert(model, "tflite")
    expected = deploy.Runner(content).predict_all(images)
    results = run_micro_all(content, [images])
    for (name, _, _), result, y in zip(cases, results, expected, strict=True):
        assert relative(result, y) < 3e-6, name


def test_half_precision_is_refused():
    with pytest.raises(UserError, match="float16, which TensorFlow Lite Micro cannot"):
        deploy.convert(network(units=1), "tflite", float_weights="float16")


# -------------------------------------------------------------------------- in int8


def reference(content, inputs):
    """The inputs and outputs in int8 of TFLite's reference kernels.

    Its fast ones round twice in places, and so differ by a step or by a sign.
    """
    kind = tf.lite.experimental.OpResolverType.BUILTIN_REF
    interpreter = tf.lite.Interpreter(
        model_content=content, experimental_op_resolver_type=kind
    )
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    inputs = [quantized(x, d) for x, d in zip(inputs, details, strict=True)]
    rows = []
    for row in zip(*inputs, strict=True):
        for x, d in zip(row, details, strict=True):
            interpreter.set_tensor(d["index"], x[None])
        interpreter.invoke()
        out = interpreter.get_output_details()
        rows.append([interpreter.get_tensor(d["index"]) for d in out])
    return inputs, [np.concatenate(parts) for parts in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("reactnet18", "free"),
        ("reactnet18", "batch"),
        pytest.param("xnornet18", "batch", marks=pytest.mark.slow),
        pytest.param("reactnet_a", "free", marks=pytest.mark.slow),
    ],
)
def test_networks_in_int8(name, norm):
    units = {} if name == "reactnet_a" else {"units": 1}
    size = 32 if name == "reactnet_a" else 16
    model = network(name, norm, input_shape=(size, size, 3), **units)
    images = images_for(model, 8)
    content = deploy.convert(
        model, "tflite", quantize="int8", representative=images_for(model, 16, 2)
    )
    file = Flatbuffer(content)
    types = {x.dtype for op in file.operators() for x in (*op.inputs, *op.outputs) if x}
    assert types <= {"int8", "int32", "bool"}
    assert [x.dtype for x in (*file.inputs, *file.outputs)] == ["int8", "int8"]
    inputs, (expected,) = reference(content, [images])
    result = run_micro(content, inputs[0])
    assert result.dtype == np.int8
    np.testing.assert_array_equal(result, expected)
    assert len(np.unique(result)) > 10


def test_layers_in_int8():
    """Signs that are layers, and behind them what is not a binary convolution."""
    model = functional(
        layers.RSign(),
        tf.keras.layers.MaxPooling2D(2),
        lq.layers.QuantConv2D(5, 3, padding="same", kernel_quantizer="ste_sign"),
        lq.layers.QuantDepthwiseConv2D(3, input_quantizer="ste_sign"),
        layers.RPReLU(),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(4, activation="softmax"),
    )
    images = images_for(model, 16)
    content = deploy.convert(model, "tflite", quantize="int8", representative=images)
    inputs, (expected,) = reference(content, [images])
    np.testing.assert_array_equal(run_micro(content, inputs[0]), expected)


def test_real_numbers_into_int8_and_out_of_it():
    """A float network loses half a step per value, and no more than that."""
    model = functional(
        tf.keras.layers.Conv2D(8, 3, activation="relu"), tf.keras.layers.Conv2D(4, 3)
    )
    images = images_for(model, 32)
    content = deploy.convert(
        model, "tflite", quantize="int8", representative=images_for(model, 32, 2)
    )
    results = deploy.Runner(content).predict(images)
    assert results.dtype == np.float32
    assert 1e-4 < relative(results, model(images)) < 0.05


def test_two_inputs_in_int8():
    """Each by its own images: their ranges are far from each other."""
    x, y = tf.keras.Input((4,), name="b"), tf.keras.Input((4,), name="a")
    outputs = [tf.keras.layers.Dense(3)(x), tf.keras.layers.ReLU()(y)]
    model = tf.keras.Model([x, y], outputs)
    random = np.random.default_rng(0)
    small, large = (random.normal(0, s, (20, 4)).astype("float32") for s in (0.1, 9))
    content = deploy.convert(
        model, "tflite", quantize="int8", representative=[small, large]
    )
    inputs, expected = reference(content, [small, large])
    assert all(np.ptp(x.astype(int)) > 200 for x in inputs)
    for result, y in zip(run_micro_all(content, inputs), expected, strict=True):
        np.testing.assert_array_equal(result, y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int8"}, "belong together. Received: quantize='int8' and no im"),
        ({"representative": [0.0]}, "Received: quantize=None and some images"),
        ({"quantize": "int4", "representative": [0]}, "must be one of 'int8'"),
        (
            {"quantize": "int8", "representative": [0], "target": "arm"},
            "Only files for plain TFLite can be quantized. Received: target='arm'",
        ),
        (
            {"quantize": "int8", "representative": [0], "float_weights": "int8"},
            "Quantized files have no float weights",
        ),
        ({"quantize": "int8", "representative": []}, "must have the shape .count, 8"),
    ],
)
def test_what_cannot_be_quantized(arguments, message):
    model = functional(tf.keras.layers.ReLU())
    with pytest.raises(UserError, match=message):
        deploy.convert(model, **{"target": "tflite", **arguments})


def test_operators_that_int8_does_not_have():
    model = functional(tf.keras.layers.Lambda(tf.sin))
    images = images_for(model)
    with pytest.raises(UserError, match="that TFLite in int8 has. Received: .*SIN"):
        deploy.convert(model, "tflite", quantize="int8", representative=images)
