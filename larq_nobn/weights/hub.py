"""The Hugging Face hub: published checkpoints and bundles, by `huggingface_hub`.

Its conventions hold: `HF_ENDPOINT` (mirrors), `HF_HUB_OFFLINE`, `HF_HOME`, tokens,
resuming, proxies. What it downloads is data: a bundle is read as every bundle, a
checkpoint by `weights.torch`, which runs nothing.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from larq_nobn._errors import UserError, first_line
from larq_nobn._files import sha256, write_json
from larq_nobn.datasets import DATASETS
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights import download
from larq_nobn.weights.card import KINDS, Card, WeightsFile, read_card
from larq_nobn.weights.files import CARD
from larq_nobn.weights.publishers import PUBLISHERS
from larq_nobn.weights.sources import (
    Found,
    Published,
    answers,
    cache_folder,
    open_file,
)

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?(?::(full|packed))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PINS = "hub.json"


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint that `weights=` may import.

    Attributes:
        file: Its file in the publisher's repository.
        network: What it is for.
        dataset: What it was trained on.
        top1: Its accuracy in percent, as published.
        repository: Where it is on the hub.
        publisher: One of `publishers.PUBLISHERS`.
        bytes: Its size, roughly.
        sha256: Of the file, where it is known.
    """

    file: str
    network: NetworkSpec
    dataset: str
    top1: float
    repository: str = "Ruichen0424/AB-BNN"
    publisher: str = "ab_bnn"
    bytes: int = 0
    sha256: str | None = None

    @property
    def address(self) -> str:
        """Repository and file."""
        return f"{SCHEME}{self.repository}/{self.file}"

    @property
    def card(self) -> Card:
        """The card of its bundle, as far as it is known before: without classes."""
        publisher = PUBLISHERS[self.publisher]
        statistics = DATASETS[publisher.normalizes_as or self.dataset]
        return Card(
            network=self.network,
            dataset=self.dataset,
            classes=(),  # ImageNet's would take seconds: tensorflow-datasets has them.
            mean=statistics.mean,
            std=statistics.std,
            origin={
                "title": publisher.title,
                "paper": publisher.paper,
                "top1 as published": f"{self.top1:.2f} %",
            },
            license=publisher.license,
            files={"packed": WeightsFile("packed.npz", self.bytes, "")},
        )


def _ab(name: str, dataset: str, top1: float, megabytes: int, **pinned: str):
    """A row for a network of A&B BNN (arXiv 2403.03739, Tables 3 and 4)."""
    row = DATASETS[dataset]
    network = NetworkSpec(
        name,
        stem=row.stem,
        input_shape=row.input_shape,
        num_classes=row.num_classes,
    )
    # A&B BNN's files call their networks ReActNets.
    file = f"models/{dataset}_{name.replace('abnet', 'reactnet').replace('_', '')}"
    return Checkpoint(
        f"{file}_step2.h5", network, dataset, top1, bytes=megabytes * 10**6, **pinned
    )


CHECKPOINTS = (
    _ab("abnet18", "imagenet", 61.39, 47),
    _ab("abnet34", "imagenet", 65.19, 87),
    _ab("abnet_a", "imagenet", 66.89, 117),
    _ab("abnet18", "cifar10", 91.94, 45),
    _ab(
        "abnet_a",
        "cifar10",
        89.44,
        113,
        sha256="973efc67028e6373642b1e925ebcf208959f4972ac0c6a984fd8bd3ab229d5e9",
    ),
    _ab("abnet18", "cifar100", 69.35, 45),
    _ab("abnet_a", "cifar100", 63.23, 113),
)


class Hub:
    """The published checkpoints, as a source of weights behind all others."""

    def survey(self, problems: list[str]) -> Iterator[Published]:
        """All of them, whether the hub can be reached or not."""
        for checkpoint in CHECKPOINTS:
            where = f"{checkpoint.address} (to be downloaded)"
            yield Published(checkpoint.card, where)

    def find(
        self, network: NetworkSpec, dataset: str, problems: list[str]
    ) -> Found | None:
        """The checkpoint for a network."""
        for checkpoint in CHECKPOINTS:
            if answers(checkpoint.card, network, dataset):
                return Found(
                    checkpoint.card, lambda kind, _, c=checkpoint: _imported(c, kind)
                )
        return None


def _imported(checkpoint: Checkpoint, kind: str) -> tuple[Card, Path]:
    """Download a checkpoint and import it into the cache, at one bit a weight."""
    from larq_nobn.weights.torch.importing import import_checkpoint

    path, sources = fetch(checkpoint.repository, checkpoint.file, checkpoint.sha256)
    folder = import_checkpoint(
        path,
        model=checkpoint.network.name,
        norm=checkpoint.network.norm,
        dataset=checkpoint.dataset,
        source=checkpoint.publisher,
        stem=checkpoint.network.stem,
        full=kind == "full",
        overwrite=True,
        origin={"top1 as published": f"{checkpoint.top1:.2f} %", **sources},
    )
    return open_file(folder, read_card(folder / CARD), kind)


def bundle(address: str) -> tuple[Path, str]:
    """Download a bundle that somebody published.

    Args:
        address: `hf://OWNER/REPOSITORY[@REVISION]`, behind it `:full` or `:packed` to
            choose between latent weights and 1 bit per binary weight.

    Returns:
        A folder with its card and the weights, and their kind.

    Raises:
        UserError: If there is none, it is damaged, or the hub cannot be reached.
    """
    repository, revision, kind = _parse(address)
    path, _ = fetch(repository, CARD, revision=revision)
    card = read_card(path)
    kind = kind or next(kind for kind in KINDS if kind in card.files)
    if kind not in card.files:
        raise UserError(
            "A bundle must have the weights that are asked for",
            got=f"{address}, which has only {', '.join(card.files)} ones",
            fix=f"leave out ':{kind}'",
        )
    file = card.files[kind]
    weights, _ = fetch(repository, file.name, file.sha256, revision=revision)
    return weights.parent, kind


def _parse(address: str) -> tuple[str, str | None, str | None]:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(
            "An address on the hub must be hf://OWNER/REPOSITORY[@REVISION]",
            got=address,
            fix="for example hf://me/reactnet18_free_cifar10",
        )
    return match.groups()


def fetch(
    repository: str,
    file: str,
    digest: str | None = None,
    revision: str | None = None,
) -> tuple[Path, dict[str, str]]:
    """Download a file, once, and check it against what is known of it.

    Args:
        repository: `OWNER/NAME`.
        file: Its path in there.
        digest: Its SHA-256, where it is known.
        revision: A commit, branch or tag.

    Returns:
        The file, and its commit and SHA-256.

    Raises:
        UserError: If it cannot be had, or is another file than it was.
    """
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    offline = download.is_offline() or HF_HUB_OFFLINE
    shown = f"{SCHEME}{repository}/{file}"
    try:
        path = huggingface_hub.hf_hub_download(
            repository,
            file,
            revision=revision,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            local_files_only=offline,
        )
    except (OSError, ValueError, HTTPError, EntryNotFoundError) as error:
        raise UserError(
            f"{shown} must be on the hub, or in its cache",
            got=f"{type(error).__name__}: {first_line(error)}",
            fix="connect to the network once (mirrors: HF_ENDPOINT; proxies: "
            "HTTPS_PROXY)"
            + (", without LARQ_NOBN_OFFLINE and HF_HUB_OFFLINE" if offline else ""),
        ) from error
    path = Path(path)
    # In the hub's cache, snapshots/COMMIT/FILE links to blobs/ETAG.
    etag = path.resolve().name
    actual = sha256(path)
    known = digest or (etag if _SHA256.fullmatch(etag) else None)
    commit = path.parents[len(Path(file).parts) - 1].name
    pinned = _pins()
    _check(shown, actual, known, pinned.get(shown) if revision is None else None)
    if shown not in pinned and revision is None:
        if known is None and file != CARD:
            warnings.warn(
                f"Nothing says what {shown} should be: its SHA-256 {actual} was noted, "
                "and is compared from now on.",
                stacklevel=2,
            )
        if file != CARD:
            pins = cache_folder() / _PINS
            pins.parent.mkdir(parents=True, exist_ok=True)
            entry = {"sha256": actual, "commit": commit}
            write_json(pins, {**pinned, shown: entry})
    return path, {"commit": commit, "sha256": actual}


def _check(
    shown: str, actual: str, known: str | None, pinned: dict[str, str] | None
) -> None:
    if known is not None and actual != known:
        raise UserError(
            f"{shown} must have the SHA-256 {known}",
            got=actual,
            fix="remove it from the hub's cache (HF_HOME) and try again",
        )
    if pinned is not None and actual != pinned["sha256"]:
        raise UserError(
            f"{shown} must be what it was at first use, SHA-256 {pinned['sha256']}",
            got=f"{actual}: it was changed",
            fix=f"if that is right, remove its entry from {cache_folder() / _PINS}",
        )


def _pins() -> dict[str, Any]:
    """What the files were at first use."""
    try:
        pins = json.loads((cache_folder() / _PINS).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return pins if isinstance(pins, dict) else {}


def publish(folder: Path, address: str) -> str:
    """Put a bundle onto the hub, a repository of its own.

    Args:
        folder: The bundle.
        address: `hf://OWNER/REPOSITORY`; made if missing.

    Returns:
        The URL of its page.

    Raises:
        UserError: If its licence forbids it, or the hub refuses it.
    """
    import tempfile
    from shutil import copytree

    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    repository, revision, _ = _parse(address)
    card = read_card(folder / CARD)
    if not card.redistributable:
        raise UserError(
            "Only weights with a licence can be published",
            got=f"{folder}, which has none",
            fix="publish it again with --license",
        )
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        with tempfile.TemporaryDirectory() as copy:
            copytree(folder, copy, dirs_exist_ok=True)
            page = Path(copy) / "README.md"
            page.write_text(_metadata(card) + page.read_text())
            api.create_repo(repository, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository,
                folder_path=copy,
                revision=revision,
                commit_message=f"Publish {card.folder_name}",
            )
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(
            f"The hub must take {address}",
            got=f"{type(error).__name__}: {first_line(error)}",
            fix="log in by `hf auth login`, or set HF_TOKEN to a token that may write",
        ) from error
    return str(done.repo_url)


def _metadata(card: Card) -> str:
    """The head of a model card page, as the hub reads it."""
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": card.dataset, "type": card.dataset},
            "metrics": [
                {"type": "accuracy", "name": name, "value": value}
                for name, value in card.metrics.items()
            ],
        }
    ]
    head = {
        "license": card.license.split(" ")[0].lower(),
        "library_name": "larq_nobn",
        "pipeline_tag": "image-classification",
        "tags": ["keras", "larq", "binary-neural-network", card.network.name],
        "datasets": [card.dataset],
        "metrics": ["accuracy"],
        "model-index": [{"name": card.folder_name, "results": results}],
    }
    # Every JSON value is valid YAML.
    lines = [f"{key}: {json.dumps(value)}" for key, value in head.items()]
    return "\n".join(["---", *lines, "---", "", ""])
