"""Small networks for the tests of the export."""

import numpy as np
import tensorflow as tf

from larq_nobn import zoo
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
