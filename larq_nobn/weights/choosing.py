"""What network `create_model(name, weights=...)` means: weights decide what is open."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from larq_nobn._errors import UserError
from larq_nobn.datasets import DATASETS, usual_stem
from larq_nobn.networks import FAMILIES, NetworkSpec
from larq_nobn.weights import hub
from larq_nobn.weights.card import Card, read_card
from larq_nobn.weights.files import CARD, call_arguments
from larq_nobn.weights.registry import is_bundle, is_name, survey
from larq_nobn.weights.sources import Mirror, sources


def choose(name: str, weights: Any, given: Mapping[str, Any]) -> NetworkSpec:
    """The network that a call of `create_model` is about.

    Args:
        name: One of `zoo.list_models()`.
        weights: As in `create_model`.
        given: What the caller said of the network; the rest is as it was for the
            weights, or, without any, as published.

    Returns:
        The network. It has another name if there are weights only of a relative: a
        BN-free network on the same plan, which is said in a warning.

    Raises:
        UserError: If an argument is wrong.
    """
    known = isinstance(name, str) and name in FAMILIES
    card = _card(name, weights, given) if known else None
    if card is None:
        return NetworkSpec(name, **given)
    return _specified(card, given)


def card_named(name: str) -> Card | None:
    """The card of the bundle of that name, if there is one."""
    return next((p.card for p in survey()[0] if p.card.folder_name == name), None)


def card_of(bundle: str | os.PathLike) -> Card | None:
    """The card of a bundle by its name, folder or address on the hub."""
    if str(bundle).startswith(hub.SCHEME):
        folder, _ = hub.bundle(str(bundle))
        return read_card(folder / CARD)
    if is_bundle(Path(bundle)):
        return read_card(Path(bundle) / CARD)
    return card_named(str(bundle))


def _specified(card: Card, given: Mapping[str, Any]) -> NetworkSpec:
    """The card's network, with what the caller said of it."""
    values = {f.name: getattr(card.network, f.name) for f in fields(card.network)}
    return NetworkSpec(values.pop("name"), **{**values, **given})


def _card(name: str, weights: Any, given: Mapping[str, Any]) -> Card | None:
    if not isinstance(weights, (str, os.PathLike)) or not str(weights):
        return None
    if str(weights).startswith(hub.SCHEME):
        folder, _ = hub.bundle(str(weights))
        return read_card(folder / CARD)
    path = Path(weights)
    called = str(weights).partition(":")[0]
    if is_name(weights) and (called in DATASETS or not path.exists()):
        if called not in DATASETS and (card := card_named(called)) is not None:
            return card if card.network.name == name else None
        return _best(name, called, given) or _relative(name, called, given)
    return read_card(path / CARD) if is_bundle(path) else None


def _best(name: str, dataset: str, given: Mapping[str, Any]) -> Card | None:
    """Of the published networks that fit: the published width, then the best."""
    found: dict[str, Card] = {}
    for card in _published(name, dataset, given):
        # For the same network the first source wins.
        found.setdefault(card.folder_name, card)
    width = FAMILIES[name].width
    return max(
        found.values(),
        key=lambda card: (card.network.width == width, _top1(card)),
        default=None,
    )


def _published(name: str, dataset: str, given: Mapping[str, Any]) -> Iterator[Card]:
    usual = NetworkSpec(name, **{"stem": usual_stem(dataset), **given})
    ignored: list[str] = []
    mirrors, any_found = [], False
    for source in sources(ignored):
        if isinstance(source, Mirror):
            # Ask by the usual name: listing a mirror takes a request per network.
            mirrors.append(source)
            found = source.find(usual, dataset, ignored)
            cards: Iterable[Card] = () if found is None else (found.card,)
        else:
            cards = (published.card for published in source.survey(ignored))
        for card in cards:
            if _fits(card, name, dataset, given):
                any_found = True
                yield card
    rest = [] if any_found else [*mirrors, hub.Hub()]
    for source in rest:
        for published in source.survey(ignored):
            if _fits(published.card, name, dataset, given):
                yield published.card


def _fits(card: Card, name: str, dataset: str, given: Mapping[str, Any]) -> bool:
    """Whether the caller said nothing that these weights are not for."""
    network = card.network
    if (network.name, card.dataset) != (name, dataset):
        return False
    # Number of classes and image size may differ.
    body = {k: v for k, v in given.items() if k != "num_classes"}
    body["input_shape"] = (None, None, network.input_shape[-1])
    return _specified(card, body).shares_body_with(network)


def _relative(name: str, dataset: str, given: Mapping[str, Any]) -> Card | None:
    """A BN-free network on the same plan whose weights are published."""
    plan = _plan(name)
    if given.get("norm", "free") != "free":
        return None
    for other in FAMILIES:
        if other == name or _plan(other) != plan:
            continue
        card = _best(other, dataset, given)
        if card is None and "alpha" in given:
            rest = {k: v for k, v in given.items() if k != "alpha"}
            if (relative := _best(other, dataset, rest)) is not None:
                raise UserError(
                    f"`alpha` must be that of the weights, {relative.network.alpha:g}: "
                    f"only those of {other} are published for {dataset!r}",
                    got=f"alpha={given['alpha']!r}",
                    fix="leave out alpha",
                )
        if card is not None:
            top1 = card.origin.get("top1 as published") or f"{_top1(card):.2f} %"
            warnings.warn(
                f"No weights of {name} are published for {dataset!r}. This is "
                f"{other} ({card.origin.get('title', 'its relative')}, "
                f"{card.origin.get('paper', 'on the same plan')}), top-1 {top1}: "
                f"create_model({call_arguments(card)})",
                stacklevel=5,
            )
            return card
    return None


def _plan(name: str):
    """A network's plan, without what sets A&B BNN's blocks apart."""
    plan = FAMILIES[name]
    differing = {"alpha": 0.0, "add_and_bit": False, "norms": ()}
    known = {field.name for field in fields(plan)}
    return replace(plan, **{k: v for k, v in differing.items() if k in known})


def _top1(card: Card) -> float:
    published = card.origin.get("top1 as published", "0").split(" ")[0]
    return card.metrics.get("top1", float(published))
