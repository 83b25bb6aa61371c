"""The argument MODEL of commands: one way to name and load a model."""

HELP = "a saved model: a .keras or HDF5 file, or a SavedModel folder"


def open_model(path: str):
    """Load the model that an argument names, for inference.

    Args:
        path: What the user typed.

    Returns:
        A `tf.keras.Model`.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    from larq_nobn.saving import load_model

    return load_model(path, compile=False)
