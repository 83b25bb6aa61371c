"""Where `weights="cifar10"` finds its weights.

In this order: the bundles inside the installed package; the folders and mirrors in the
environment variable `LARQ_NOBN_ZOO`, the first match wins; the user's cache, which
holds what was downloaded or imported before; the published checkpoints on the hub.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from larq_nobn._errors import UserError
from larq_nobn.datasets import DATASETS
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights.card import (
    KINDS,
    Card,
    folder_name,
    is_dataset_name,
    read_card,
)
from larq_nobn.weights.files import CARD, call_arguments
from larq_nobn.weights.hub import Hub
from larq_nobn.weights.sources import PublishedList, open_file, sources

if TYPE_CHECKING:
    import tensorflow as tf


def is_name(weights: object) -> bool:
    """Whether `weights=` names a dataset, with or without `:full` or `:packed`."""
    if not isinstance(weights, str):
        return False
    name, colon, kind = weights.partition(":")
    return is_dataset_name(name) and (not colon or kind in KINDS)


def load(
    model: tf.keras.Model, weights: str, network: NetworkSpec, include_top: bool
) -> None:
    """Load published weights into a model.

    Args:
        model: The model, freshly built.
        weights: Name of the dataset, or of a bundle; behind it `:full` or `:packed` to
            choose between latent weights and 1 bit per binary weight, by default the
            smaller.
        network: What the model is.
        include_top: Whether the model has a classifier.

    Raises:
        UserError: If there are none; the error says which there are, and how to get
            more. Also if they are damaged.
    """
    name, _, kind = weights.partition(":")
    dataset = next((d for d in DATASETS if folder_name(network, d) == name), name)
    problems: list[str] = []
    missing: UserError | None = None
    for source in [*sources(problems), Hub()]:
        found = source.find(network, dataset, problems)
        if found is None:
            continue
        try:
            card, path = found.open(kind or _smallest(found.card), model)
        except (UserError, OSError) as error:
            # Another source may have the missing file: packages hold packed ones only.
            problems.append(str(error))
            if missing is None or isinstance(source, Hub):
                missing = UserError(str(error))
            continue
        if isinstance(source, Hub):
            # A cached import of the same checkpoint may lack the latent weights.
            problems = [p for p in problems if p != str(missing)]
        _warn(problems)
        _load(model, path, card, network, include_top)
        return
    raise missing or _none_published(network, dataset, problems)


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle's folder."""
    return (path / CARD).is_file()


def load_folder(
    model: tf.keras.Model,
    folder: Path,
    network: NetworkSpec,
    include_top: bool,
    kind: str | None = None,
) -> None:
    """Load the weights of one bundle.

    Args:
        model: The model, freshly built.
        folder: The bundle.
        network: What the model is.
        include_top: Whether the model has a classifier.
        kind: `"packed"` or `"full"`; by default the first that is there.

    Raises:
        UserError: If the bundle is damaged, or for another network.
        OSError: If it cannot be read.
    """
    card = read_card(folder / CARD)
    if not card.network.shares_body_with(network):
        raise UserError(
            f"The weights in {folder} must be for the network that is built",
            got=f"weights for create_model({call_arguments(card)})",
            fix="build that",
        )
    kinds = [kind for kind in KINDS if kind in card.files]
    there = [kind for kind in kinds if (folder / card.files[kind].name).is_file()]
    card, path = open_file(folder, card, kind or (there or kinds)[0])
    _load(model, path, card, network, include_top)


def _smallest(card: Card) -> str:
    return next(kind for kind in KINDS if kind in card.files)


def _load(
    model: tf.keras.Model,
    path: Path,
    card: Card,
    network: NetworkSpec,
    include_top: bool,
) -> None:
    from larq_nobn.weights.bundle import load_weights

    body_only = not include_top or network.num_classes != card.network.num_classes
    load_weights(model, path, card, body_only)
    if body_only and include_top:
        warnings.warn(
            f"The classifier for num_classes={network.num_classes} starts from random "
            f"weights: the published one is for {card.network.num_classes} classes of "
            f"{card.dataset}. Only the body was loaded.",
            stacklevel=5,
        )
    elif body_only:
        warnings.warn(
            "include_top=False: only the body of the network trained on "
            f"{card.dataset} was loaded.",
            stacklevel=5,
        )
    # Read by `preprocess_input` and `decode_predictions`.
    model.card = card


def _warn(problems: list[str]) -> None:
    for problem in problems:
        warnings.warn(problem, stacklevel=5)


def survey() -> tuple[PublishedList, list[str]]:
    """All published models that can be found, and what is wrong with others."""
    problems: list[str] = []
    found = PublishedList(
        p for source in sources(problems) for p in source.survey(problems)
    )
    there = {published.card.folder_name for published in found}
    found += [p for p in Hub().survey(problems) if p.card.folder_name not in there]
    return found, problems


def list_weights() -> PublishedList:
    """The published models that `weights=` can find, in the order of the search.

    Returns:
        A list, printed a table, with one entry for each, with `name`, `dataset`,
        `size` (bytes), `where`, `arguments` (of `create_model`) and the whole `card`.

    Warns:
        UserWarning: Of sources that cannot be read, and of damaged bundles.

    Example:
        >>> print(zoo.list_weights())
        >>> [published.arguments for published in zoo.list_weights()]
    """
    found, problems = survey()
    _warn(problems)
    return found


def _none_published(
    network: NetworkSpec, dataset: str, problems: list[str]
) -> UserError:
    found, more = survey()
    problems = list(dict.fromkeys([*problems, *more]))
    published = "; ".join(f"create_model({p.arguments}){_top1(p.card)}" for p in found)
    skipped = f" Passed over: {' '.join(problems)}" if problems else ""
    return UserError(
        f"No weights are published for {network.name} (norm={network.norm!r}, "
        f"stem={network.stem!r}, binary_weights={network.binary_weights}, "
        f"binary_downsample={network.binary_downsample}, alpha={network.alpha:g}, "
        f"width={network.width}) on {dataset!r}; published: {published or 'none yet'}."
        f"{skipped} Fix: import a PyTorch checkpoint (larq-nobn import FILE --model "
        f"{network.name} --norm {network.norm} --data {dataset}), or train them "
        "(larq-nobn train training/RECIPE.py --out RUN, then larq-nobn publish RUN "
        "--out DIR and LARQ_NOBN_ZOO=DIR)."
    )


def _top1(card: Card) -> str:
    return f" (top-1 {card.metrics['top1']:.2f} %)" if "top1" in card.metrics else ""
