"""Small networks for the tests of the export."""

import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import zoo
from larq_nobn.deploy.flatbuffer import Flatbuffer
from larq_nobn.deploy.survey import randomize

# The smallest images of which no feature map vanishes.
SIZES = {"cifar": 16, "imagenet": 32}


def network(name="reactnet18", norm="free", *, stem="cifar", width=8, **kwargs):
    """A tiny network of the zoo with weights as after training."""
    kwargs = {"num_classes": 5, "classifier_activation": None, **kwargs}
    size = SIZES[stem]
    kwargs.setdefault("input_shape", (size, size, 3))
    model = zoo.create_model(name, norm=norm, stem=stem, width=width, **kwargs)
    randomize(model)
    return model


def images_for(model, count=4, seed=1):
    shape = (count, *model.inputs[0].shape[1:])
    x = np.random.default_rng(seed).standard_normal(shape)
    return x.astype(model.inputs[0].dtype.as_numpy_dtype)


def functional(*layers, shape=(8, 8, 4), name=None):
    """A functional model of layers in a row, with random weights."""
    x = image = tf.keras.Input(shape)
    for layer in layers:
        x = layer(x)
    model = tf.keras.Model(image, x, name=name)
    randomize(model)
    return model


def relative(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()


def run_micro(content, inputs):
    """The first output, image by image, of TensorFlow Lite Micro itself."""
    return run_micro_all(content, [inputs])[0]


def run_micro_all(content, inputs):
    """All outputs of TensorFlow Lite Micro, for an array per input."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=40_000_000)
    rows = []
    for row in zip(*inputs, strict=True):
        for i, x in enumerate(row):
            interpreter.set_input(x[None], i)
        interpreter.invoke()
        count = len(Flatbuffer(content).outputs)
        rows.append([interpreter.get_output(i) for i in range(count)])
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]
