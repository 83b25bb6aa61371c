"""The argument MODEL of commands: one way to name and load a model."""

from dataclasses import asdict
from pathlib import Path

HELP = (
    "a saved model (a .keras or HDF5 file, or a SavedModel folder), or a published one "
    "(a bundle's folder, or its name, such as reactnet18_free_cifar10)"
)


def open_model(name: str):
    """Load the model that an argument names, for inference.

    Args:
        name: What the user typed.

    Returns:
        A `tf.keras.Model`.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    from larq_nobn.saving import load_model
    from larq_nobn.zoo import create_model
    from larq_nobn.zoo.card import read_card
    from larq_nobn.zoo.registry import CARD, is_bundle, survey

    path = Path(name)
    if is_bundle(path):
        return create_model(**asdict(read_card(path / CARD).network), weights=path)
    if not path.exists():
        for published in survey()[0]:
            if published.card.folder_name == name:
                arguments = asdict(published.card.network)
                return create_model(**arguments, weights=published.dataset)
    return load_model(name, compile=False)
