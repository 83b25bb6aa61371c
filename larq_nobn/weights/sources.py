"""The places that published models come from: folders, mirrors and the user's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from larq_nobn._errors import UserError, first_line
from larq_nobn._files import write_json
from larq_nobn._shipped import shipped
from larq_nobn._tables import format_table
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights import download
from larq_nobn.weights.card import (
    MAX_CARD_BYTES,
    Card,
    folder_name,
    parse_card,
    read_card,
)
from larq_nobn.weights.files import (
    CARD,
    INDEX,
    call_arguments,
    check_size,
    load_index,
    verify,
)

if TYPE_CHECKING:
    import tensorflow as tf

_MOST_FAILURES = 3
PACKAGED = shipped("zoo")


class PublishedList(list):
    """Published models; printed, a table of them."""

    HEADER = ("name", "data set", "metrics", "size", "where")

    def __repr__(self) -> str:
        """The table."""
        return format_table(self.HEADER, [published.row for published in self])


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        card: Its card.
        where: The folder or URL that it is in.
    """

    card: Card
    where: str

    @property
    def name(self) -> str:
        """Name of the network, for `create_model`."""
        return self.card.network.name

    @property
    def dataset(self) -> str:
        """The name that `weights=` takes."""
        return self.card.dataset

    @property
    def size(self) -> int:
        """Bytes that loading it takes or downloads: packed ones, if there are."""
        files = self.card.files
        return (files.get("packed") or files["full"]).size

    @property
    def arguments(self) -> str:
        """What to call `create_model` with."""
        return call_arguments(self.card)

    @property
    def top1(self) -> str | None:
        """Accuracy as text: measured, or else as its publisher states it."""
        if "top1" in self.card.metrics:
            return f"{self.card.metrics['top1']:.2f} %"
        published = self.card.origin.get("top1 as published")
        return published and f"{published} (as published)"

    @property
    def row(self) -> tuple[str, ...]:
        """The model as a row of a table under `PublishedList.HEADER`."""
        metrics = [f"{name} {value:.2f} %" for name, value in self.card.metrics.items()]
        if not metrics and (top1 := self.top1):
            metrics = [f"top1 {top1}"]
        return (
            self.card.folder_name,
            self.dataset,
            ", ".join(metrics) or "-",
            f"{self.size / 1e6:.2f} MB",
            self.where,
        )


@dataclass(frozen=True)
class Found:
    """A bundle that answers a request.

    Attributes:
        card: Its card.
        open: Gives the path of one kind of its weights, verified, and the card that
            they were verified by. It takes the kind and the model they are for.
    """

    card: Card
    open: Callable[[str, tf.keras.Model], tuple[Card, Path]]


def _local(published: Published) -> Found:
    card, folder = published.card, Path(published.where)
    return Found(card, lambda kind, model: open_file(folder, card, kind))


class Folder:
    """A folder of bundles, or a bundle."""

    def __init__(self, path: Path):
        self.path = path
        self.where = str(path)

    def _cards(self) -> Iterator[Path]:
        if (self.path / CARD).is_file():
            return iter([self.path / CARD])
        return iter(sorted(self.path.glob(f"[!.]*/{CARD}")))

    def survey(self, problems: list[str]) -> Iterator[Published]:
        """All bundles; what is wrong with others goes into `problems`."""
        try:
            paths = list(self._cards())
        except OSError as error:
            problems.append(f"{self.where}: {first_line(error)}")
            return
        for path in paths:
            try:
                yield Published(read_card(path), str(path.parent))
            except (UserError, OSError) as error:
                problems.append(str(error))

    def find(
        self, network: NetworkSpec, dataset: str, problems: list[str]
    ) -> Found | None:
        """The bundle for a network."""
        for published in self.survey(problems):
            if answers(published.card, network, dataset):
                return _local(published)
        return None


class Cache(Folder):
    """What was imported, then what was downloaded from any mirror."""

    def _cards(self) -> Iterator[Path]:
        for pattern in (f"zoo/[!.]*/{CARD}", f"mirrors/*/*/{CARD}"):
            yield from sorted(self.path.glob(pattern))


class Mirror:
    """A folder of bundles behind http or https."""

    def __init__(self, url: str):
        self._root = url.rstrip("/")
        self.where = download.public(self._root)
        # One folder per mirror: two may publish different bundles under one name.
        host = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(url).netloc.rpartition("@")[2])
        digest = sha256(self._root.encode()).hexdigest()[:12]
        self.cache = cache_folder() / "mirrors" / f"{host}-{digest}"

    def _url(self, *parts: str) -> str:
        return "/".join([self._root, *map(quote, parts)])

    def _shown(self, *parts: str) -> str:
        return download.public(self._url(*parts))

    def _read_card(self, name: str) -> Card | None:
        data = download.get(self._url(name, CARD), MAX_CARD_BYTES)
        return None if data is None else parse_card(data, self._shown(name, CARD))

    def survey(self, problems: list[str]) -> Iterator[Published]:
        """All bundles that the mirror's index lists."""
        if download.is_offline():
            problems.append(f"{self.where} was not asked: LARQ_NOBN_OFFLINE is set.")
            return
        try:
            data = download.get(self._url(INDEX), MAX_CARD_BYTES)
            if data is None:
                problems.append(f"{self.where} has no {INDEX}, so it cannot be listed.")
                return
            names = load_index(data, self._shown(INDEX))
        except UserError as error:
            problems.append(str(error))
            return
        failures = 0
        for name in names:
            try:
                card = self._read_card(name)
            except UserError as error:
                problems.append(str(error))
                # A mirror that hangs would hang for each of its cards.
                failures += isinstance(error, download.MirrorError)
                if failures == _MOST_FAILURES:
                    problems.append(f"{self.where} was asked no further.")
                    return
                continue
            if card is not None:
                yield Published(card, self._shown(name))

    def find(
        self, network: NetworkSpec, dataset: str, problems: list[str]
    ) -> Found | None:
        """The bundle for a network: from the cache, if it is there."""
        name = folder_name(network, dataset)
        try:
            card = self._cached(name, network, dataset)
            if card is None and download.is_offline():
                problems.append(
                    f"{self.where} was not asked: LARQ_NOBN_OFFLINE is set."
                )
            elif card is None:
                card = self._read_card(name)
            if card is None:
                return None
            if not answers(card, network, dataset):
                raise UserError(
                    f"{self._shown(name)} is not {name}, but {card.folder_name}."
                )
        except UserError as error:
            problems.append(str(error))
            return None
        return Found(card, lambda kind, model: self._fetch(card, kind, model))

    def _cached(self, name: str, network: NetworkSpec, dataset: str) -> Card | None:
        try:
            card = read_card(self.cache / name / CARD)
        except (UserError, OSError):
            return None
        return card if answers(card, network, dataset) else None

    def _fetch(self, card: Card, kind: str, model: tf.keras.Model) -> tuple[Card, Path]:
        folder = self.cache / card.folder_name
        try:
            return open_file(folder, card, kind)
        except (UserError, OSError):
            if download.is_offline():
                raise
        # Missing, damaged, or of an older card: fetch everything again.
        url = self._url(card.folder_name)
        name, card = card.folder_name, self._read_card(card.folder_name) or card
        file = card.files.get(kind)
        if file is None or card.folder_name != name:
            raise no_such_file(card, kind, self._shown(card.folder_name))
        check_size(model, card, file)
        for other in self.cache.parent.glob("*/*"):
            download.remove_stale(other)
        download.download(
            f"{url}/{file.name}", folder / file.name, file.size, file.sha256
        )
        # The card is written last: without it the cache entry does not exist.
        write_json(folder / CARD, card.to_json())
        return card, folder / file.name


def cache_folder() -> Path:
    """The user's cache: `LARQ_NOBN_CACHE`, or `~/.cache/larq_nobn`.

    Raises:
        UserError: If there is no home folder for it.
    """
    folder = os.environ.get("LARQ_NOBN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(folder or f"{base}/larq_nobn").expanduser()
    except RuntimeError as error:
        raise UserError(
            "Weights need a cache folder",
            got=f"{folder or base}: {first_line(error)}",
            fix="set LARQ_NOBN_CACHE to a folder",
        ) from error


def sources(problems: list[str]) -> list[Folder | Mirror]:
    """The places to look in, in order.

    Args:
        problems: Takes what is wrong with entries of `LARQ_NOBN_ZOO`, which are left
            out.
    """
    found: list[Folder | Mirror] = [Folder(PACKAGED)]
    for entry in split_entries(os.environ.get("LARQ_NOBN_ZOO", "")):
        try:
            found.append(_source(entry))
        except (OSError, RuntimeError, ValueError) as error:
            entry = download.public(entry)
            problems.append(f"{entry} in LARQ_NOBN_ZOO: {first_line(error)}")
    try:
        return [*found, Cache(cache_folder())]
    except UserError as error:
        problems.append(str(error))
        return found


def _source(entry: str) -> Folder | Mirror:
    url = urlsplit(entry)
    if url.scheme in ("http", "https"):
        return Mirror(entry)
    path = Path(url2pathname(url.path) if url.scheme == "file" else entry).expanduser()
    if not path.is_dir():
        raise ValueError("neither a folder nor a file://, http:// or https:// URL")
    return Folder(path)


def split_entries(value: str) -> list[str]:
    """Split `LARQ_NOBN_ZOO` at commas, semicolons and, as `PATH`, at colons.

    A colon counts where a path or URL starts behind it, so those of URLs do not.
    """
    separator = r"[,;]"
    if os.pathsep == ":":
        separator += r"|:(?=/(?!/)|[.~]|https?://|file://)"
    return [entry.strip() for entry in re.split(separator, value) if entry.strip()]


def answers(card: Card, network: NetworkSpec, dataset: str) -> bool:
    """Whether a bundle is the one for a network and a dataset."""
    return card.dataset == dataset and card.network.shares_body_with(network)


def open_file(folder: Path, card: Card, kind: str) -> tuple[Card, Path]:
    """A file of a local bundle, verified."""
    file = card.files.get(kind)
    if file is None or not (folder / file.name).is_file():
        raise no_such_file(card, kind, str(folder))
    verify(folder / file.name, file)
    return card, folder / file.name


def no_such_file(card: Card, kind: str, where: str) -> UserError:
    """The error for a bundle without the weights asked for."""
    return UserError(
        "A bundle must have the weights that are asked for",
        got=f"{where}, which has no {kind} ones of {card.folder_name}",
        fix=f"leave out ':{kind}', or add a folder or mirror that has them to "
        "LARQ_NOBN_ZOO",
    )
