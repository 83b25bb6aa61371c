"""The argument MODEL of commands: one way to name and load a model."""

HELP = "a saved model (.keras, HDF5 or SavedModel) or the folder of a published one"


def open_model(path: str):
    """Load the model that an argument names, for inference.

    Args:
        path: What the user typed.

    Returns:
        A `tf.keras.Model`.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    from dataclasses import asdict

    from larq_nobn import zoo
    from larq_nobn.saving import load_model

    card = card_of(path)
    if card is None:
        return load_model(path, compile=False)
    return zoo.create_model(**asdict(card.network), weights=path)


def card_of(path: str):
    """The card of a published model's folder; `None` for a saved model."""
    from pathlib import Path

    from larq_nobn.zoo.card import read_card
    from larq_nobn.zoo.registry import is_bundle

    return read_card(Path(path) / "card.json") if is_bundle(Path(path)) else None
