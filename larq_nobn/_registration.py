"""Registration of our classes with Keras."""

import inspect

import larq as lq
import tensorflow as tf

# Larq and Keras look these up by their bare names when they read an HDF5 file. Layers
# must not have one: our QuantConv2D would replace Larq's in every saved Larq model.
_BY_BARE_NAME = (
    lq.quantizers.Quantizer,
    tf.keras.Model,
    tf.keras.constraints.Constraint,
    tf.keras.optimizers.Optimizer,
)


def register(cls: type) -> type:
    """Register a class, so that models save and load without `custom_objects`.

    Under the package's name, as Keras wants it; models, quantizers, constraints and
    optimizers under their own, too. A layer's `call` is plain Python, which Keras need
    not convert to a graph's control flow: building a network takes a quarter less
    without.
    """
    if "call" in vars(cls) and issubclass(cls, tf.keras.layers.Layer):
        signature = inspect.signature(cls.call)
        cls.call = tf.autograph.experimental.do_not_convert(cls.call)
        # Keras reads from it whether to pass `training`.
        cls.call.__signature__ = signature
    cls = tf.keras.utils.register_keras_serializable(package="larq_nobn")(cls)
    if issubclass(cls, _BY_BARE_NAME):
        lq.utils.register_alias(cls.__name__)(cls)
    return cls
