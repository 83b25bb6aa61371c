"""Registration of our classes with Keras."""

import larq as lq
import tensorflow as tf


def register(cls: type) -> type:
    """Register a class, so that models save and load without `custom_objects`.

    Under the package's name, as Keras wants it, and under the class's own: by that,
    when they read an HDF5 file, Larq looks up quantizers and Keras constraints.
    """
    cls = tf.keras.utils.register_keras_serializable(package="larq_nobn")(cls)
    return lq.utils.register_alias(cls.__name__)(cls)
