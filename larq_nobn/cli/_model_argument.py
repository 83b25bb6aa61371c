"""The argument MODEL of commands: one way to name and load a model."""

from dataclasses import asdict
from pathlib import Path

HELP = (
    "a saved model (a .keras or HDF5 file; with --unsafe also a SavedModel folder), or "
    "a published one (a bundle's folder, or its name, such as reactnet18_free_cifar10)"
)


def add_model_argument(parser, name: str = "model", help: str = HELP, **kwargs) -> None:
    """Add the argument, and `--unsafe`.

    Args:
        parser: The command's.
        name: The argument's name.
        help: Its help.
        **kwargs: Others of `add_argument`.
    """
    kwargs.setdefault("metavar", name.upper())
    parser.add_argument(name, help=help, **kwargs)
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="load SavedModels and Lambda layers too, which run their own code: only "
        "files that you trust",
    )


def open_model(name: str, unsafe: bool = False):
    """Load the model that an argument names, for inference.

    Args:
        name: What the user typed.
        unsafe: Whether the user trusts its code.

    Returns:
        A `tf.keras.Model`.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    from larq_nobn.saving import load_model
    from larq_nobn.training.folder import data_settings
    from larq_nobn.zoo import create_model

    card, weights = published(name)
    if card is None:
        model = load_model(name, compile=False, safe_mode=not unsafe)
        # Of a run's folder: what was measured of its images.
        model.data_settings = data_settings(Path(name).parent)
        return model
    return create_model(**asdict(card.network), weights=weights)


def published(name: str):
    """The card of a published model and what `weights=` takes for it.

    Args:
        name: What the user typed: a bundle's folder or its name.

    Returns:
        A `Card` and a path or dataset; `None` twice if it is no published model.
    """
    from larq_nobn.weights.card import read_card
    from larq_nobn.weights.choosing import card_named
    from larq_nobn.weights.files import CARD, check_sizes
    from larq_nobn.weights.registry import is_bundle

    path = Path(name)
    if is_bundle(path):
        card = read_card(path / CARD)
        check_sizes(path, card)
        return card, path
    if not path.exists():
        if (card := card_named(name)) is not None:
            return card, card.dataset
    return None, None
