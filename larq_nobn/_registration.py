"""Registration of our classes with Keras."""

import inspect
from collections.abc import Callable

import larq as lq
import tensorflow as tf

# Larq and Keras look these up by their bare names when they read an HDF5 file. Layers
# must not have theirs: our QuantConv2D would replace Larq's in every saved Larq model.
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


def register_layer(name: str) -> Callable[[type], type]:
    """Register a layer by a name that nobody else has, where it is for files alone.

    Keras's wrappers (`TimeDistributed`, `Bidirectional`) write down the `__name__` of
    their layer's class, and read nothing else.

    Args:
        name: The class's `__name__`. In lower case it must be what Keras makes of the
            name in the source: after that it calls unnamed layers, and the places of
            their weights in `.keras` files.

    Returns:
        Decorator of the class.
    """

    def decorate(cls: type) -> type:
        cls = register(cls)
        cls.__name__ = name
        return lq.utils.register_alias(name)(cls)

    return decorate
