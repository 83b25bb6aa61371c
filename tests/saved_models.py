"""Save a small model of every layer of ours, for `saved_models_test.py`.

    python tests/saved_models.py tests/data/saved

writes FOLDER/tf2.15.keras or the like, by TensorFlow's version, and the .h5.
"""

import sys
from pathlib import Path

import larq_nobn  # noqa: F401  # isort: skip  (first: it selects Keras 2)
import numpy as np
import tensorflow as tf

from larq_nobn import layers
from larq_nobn.optimizers import AdaptiveGradientClipping
from larq_nobn.quantizers import FusedApproxSign

SHAPE = (8, 8, 3)


def images():
    return np.random.default_rng(0).standard_normal((4, *SHAPE)).astype(np.float32)


def build():
    """Every layer, a convolution for each kind of quantizer, and a custom optimizer."""
    x = image = tf.keras.Input(SHAPE)
    x = layers.ScaledWSConv2D(4, 3, padding="symmetric")(x)
    x = layers.SymmetricMaxPooling2D(3, 2)(x)
    for quantizer in (FusedApproxSign(), layers.RSign(), "approx_sign", "sigmoid_sign"):
        u = layers.LearnableBias()(layers.Scale(0.9)(x))
        f = layers.ScaledWSConv2D(
            4,
            3,
            padding="symmetric",
            input_quantizer=quantizer,
            kernel_quantizer="scaled_sign",
        )(u)
        x = layers.RPReLU()(layers.ScaledAdd(0.2)([f, x]))
    x = layers.QuantConv2D(4, 1, kernel_constraint="scaled_ws")(x)
    x = layers.RPReLU(power_of_two=True)(layers.ChannelAffine()(x))
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    model = tf.keras.Model(image, tf.keras.layers.Dense(3)(x), name="saved")
    optimizer = AdaptiveGradientClipping(tf.keras.optimizers.Adam(0.01))
    model.compile(optimizer, "mse")
    return model


def main(folder):
    tf.keras.utils.set_random_seed(0)
    model = build()
    model.fit(images(), np.ones((4, 3), np.float32), verbose=0)
    name = "tf" + ".".join(tf.__version__.split(".")[:2])
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".keras", ".h5"):
        model.save(folder / f"{name}{suffix}")
    np.save(folder / f"{name}.npy", model(images()).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
