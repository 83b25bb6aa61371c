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
