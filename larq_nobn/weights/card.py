"""The card of a published model: what it is, what it needs, and where it is from."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from larq_nobn._errors import UserError
from larq_nobn.datasets import usual_stem
from larq_nobn.networks import FAMILIES, NetworkSpec

FORMAT = 1
MAX_CARD_BYTES = 1 << 20
KINDS = ("packed", "full")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.npz")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATASET = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MOST_CLASSES = 100_000
_MOST_BYTES = {"packed": 1 << 26, "full": 1 << 31}
# The fewest bytes a weight can take: bits, or half precision, both deflated.
_LEAST_BYTES = {"packed": 1 / 32, "full": 1 / 2}
# Fields younger than the format: written only where they differ from these.
_LATER = {"units": None, "surrogate": None, "binary_activations": True}


@dataclass(frozen=True)
class WeightsFile:
    """A file of a bundle.

    Attributes:
        name: Its name in the bundle's folder.
        size: Its size in bytes.
        sha256: Its hexadecimal SHA-256.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """The card of a published model.

    Attributes:
        network: What `create_model` has to be called with.
        dataset: The dataset that it was trained on, as in `weights=`.
        classes: Id and name of each class, in the order of the labels.
        mean: Mean of the images per channel, for pixel values in [0, 1].
        std: Their standard deviation.
        metrics: Numbers such as `top1`, in percent.
        recipe: The training, if it was ours.
        versions: Versions of the software that made the weights.
        origin: Where the weights come from: `title`, `url`, `paper`, `file`, `sha256`.
        license: The weights' licence; empty if they have none.
        redistributable: Whether the licence lets one pass them on.
        files: The weight files by kind: `"packed"` (1 bit per binary weight) and
            `"full"` (latent weights).
    """

    network: NetworkSpec
    dataset: str
    classes: tuple[tuple[str, str], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    license: str = ""
    redistributable: bool = False
    files: Mapping[str, WeightsFile] = field(default_factory=dict)

    @property
    def folder_name(self) -> str:
        """The name of the bundle's folder, by which a mirror is asked for it."""
        return folder_name(self.network, self.dataset)

    def to_json(self) -> dict[str, Any]:
        """The content of `card.json`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        network = asdict(self.network).items()
        return {
            "format": FORMAT,
            **values,
            # Older versions of this package refuse unknown keys.
            "network": {k: v for k, v in network if (k, v) not in _LATER.items()},
            "files": {kind: asdict(file) for kind, file in self.files.items()},
        }


def folder_name(network: NetworkSpec, dataset: str) -> str:
    """The name of a bundle's folder: what makes it differ from the usual, in words.

    Args:
        network: What the weights are for.
        dataset: What they were trained on.

    Returns:
        For example `"reactnet18_free_cifar10"`.
    """
    usual = FAMILIES[network.name]
    parts = [network.name, network.norm, dataset]
    if not network.binary_weights:
        parts.append("step1")
    if not network.binary_downsample:
        parts.append("real-downsample")
    if network.stem != usual_stem(dataset):
        parts.append(f"{network.stem}-stem")
    if network.width != usual.width:
        parts.append(f"width{network.width}")
    if network.units is not None:
        parts.append(f"units{network.units}")
    if network.norm == "free" and network.alpha != usual.alpha:
        parts.append(f"alpha{network.alpha:g}")
    return "_".join(parts)


def is_dataset_name(value: object) -> bool:
    """Whether a value can be the name of a dataset."""
    return isinstance(value, str) and _DATASET.fullmatch(value) is not None


def read_card(path: Path) -> Card:
    """Read the `card.json` of a bundle.

    Args:
        path: The file.

    Raises:
        UserError: If it is no card that this version understands.
        OSError: If there is no such file, or it cannot be read.
    """
    with path.open("rb") as file:
        return parse_card(file.read(MAX_CARD_BYTES + 1), str(path))


def parse_card(data: bytes, where: str) -> Card:
    """Read a card.

    Args:
        data: The content of a `card.json`.
        where: Its path or URL, for the error.

    Raises:
        UserError: If it is no card that this version understands.
    """
    if len(data) > MAX_CARD_BYTES:
        raise _bad(where, f"more than {MAX_CARD_BYTES:,} bytes")
    try:
        content = json.loads(data.decode(), parse_constant=_no_constant)
    except RecursionError as error:
        raise _bad(where, "JSON nested too deeply") from error
    except ValueError as error:
        what = "an HTML page" if data.lstrip()[:1] == b"<" else f"no JSON ({error})"
        raise _bad(where, what) from error
    try:
        return _card(content)
    except UserError as error:
        raise _bad(where, str(error)) from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _bad(where: str, what: str) -> UserError:
    return UserError(
        f"{where} must be the card of a published model",
        got=what,
        fix="get it again from where it was published, or update larq_nobn",
    )


def _card(content: Any) -> Card:
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"format {version}, but this version of larq_nobn reads {FORMAT}."
        )
    values = _entries(content, {"format", *(f.name for f in fields(Card))}, "the card")
    if values.pop("format") != FORMAT or isinstance(version, bool):
        raise UserError(f"format {version!r} instead of {FORMAT}.")
    network = _network(values["network"])
    channels = network.input_shape[-1]
    if not is_dataset_name(values["dataset"]):
        raise UserError(f"dataset {values['dataset']!r}, which is no name.")
    return Card(
        network=network,
        dataset=values["dataset"],
        classes=_classes(values["classes"], network.num_classes),
        mean=_channel_values(values["mean"], channels, "mean"),
        std=_channel_values(values["std"], channels, "std", positive=True),
        metrics=_mapping(values["metrics"], "metrics", _is_number),
        recipe=_mapping(values["recipe"], "recipe", _is_scalar),
        versions=_mapping(values["versions"], "versions", _is_text),
        origin=_mapping(values["origin"], "origin", _is_text),
        license=_checked(values["license"], "license", _is_text),
        redistributable=_checked(
            values["redistributable"], "redistributable", lambda v: isinstance(v, bool)
        ),
        files=_files(values["files"], network),
    )


def _network(content: Any) -> NetworkSpec:
    content = {**_LATER, **content} if isinstance(content, dict) else content
    values = _entries(content, {f.name for f in fields(NetworkSpec)}, "network")
    for name in ("name", "norm", "stem"):
        _checked(values[name], name, _is_text)
    for name in ("width", "num_classes"):
        _checked(
            values[name], name, lambda v: _is_integer(v) and 0 < v <= _MOST_CLASSES
        )
    shape = values["input_shape"]
    if not isinstance(shape, list) or not all(
        v is None or _is_integer(v) for v in shape
    ):
        raise UserError(f"input_shape {shape!r}.")
    _checked(values["alpha"], "alpha", _is_number)
    _checked(
        values["units"], "units", lambda v: v is None or (_is_integer(v) and v <= 1000)
    )
    return NetworkSpec(values.pop("name"), **{**values, "input_shape": tuple(shape)})


def _classes(content: Any, number: int) -> tuple[tuple[str, str], ...]:
    is_list = isinstance(content, list) and len(content) == number
    if not is_list or not all(
        isinstance(row, list) and len(row) == 2 and all(map(_is_text, row))
        for row in content
    ):
        raise UserError(f"classes that are not {number} pairs of id and name.")
    return tuple((row[0], row[1]) for row in content)


def _channel_values(
    content: Any, channels: int, what: str, positive: bool = False
) -> tuple[float, ...]:
    good = isinstance(content, list) and len(content) == channels
    if not good or not all(_is_number(v) and (v > 0 or not positive) for v in content):
        raise UserError(f"{what} {content!r}, which is not one number per channel.")
    return tuple(map(float, content))


def _files(content: Any, network: NetworkSpec) -> dict[str, WeightsFile]:
    known = isinstance(content, dict) and content and set(content) <= set(KINDS)
    if not known:
        raise UserError(f"files other than {' and '.join(KINDS)}.")
    files = {}
    for kind, entry in content.items():
        names = {f.name for f in fields(WeightsFile)}
        file = WeightsFile(**_entries(entry, names, f"files/{kind}"))
        if not isinstance(file.name, str) or not _FILE_NAME.fullmatch(file.name):
            raise UserError(
                f"the file name {file.name!r}: an .npz file in the card's own folder "
                "is expected."
            )
        if not isinstance(file.sha256, str) or not _SHA256.fullmatch(file.sha256):
            raise UserError(f"sha256 {file.sha256!r}.")
        most = _MOST_BYTES[kind]
        _checked(file.size, "size", lambda v, m=most: _is_integer(v) and 0 < v <= m)
        # Checked before the network is built.
        if network.plan.least_weights() * _LEAST_BYTES[kind] > file.size:
            raise UserError(f"a network too wide for {file.size:,} bytes ({kind}).")
        files[kind] = file
    return files


def _entries(content: Any, names: set[str], where: str) -> dict[str, Any]:
    """A JSON object with exactly these keys."""
    if not isinstance(content, dict):
        raise UserError(f"{where} that is no JSON object.")
    for kind, differing in (
        ("without", names - set(content)),
        ("with the unknown", set(content) - names),
    ):
        if differing:
            raise UserError(
                f"{where} {kind} {', '.join(map(repr, sorted(differing)))}."
            )
    return dict(content)


def _mapping(content: Any, what: str, is_valid) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(
        _is_text(key) and is_valid(value) for key, value in content.items()
    ):
        raise UserError(f"{what} {content!r:.200}.")
    return content


def _checked(value: Any, what: str, is_valid) -> Any:
    if not is_valid(value):
        raise UserError(f"{what} {value!r:.200}.")
    return value


def _is_text(value: Any) -> bool:
    """Printable: a card's words end up in terminals."""
    return isinstance(value, str) and value.isprintable()


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_integer(value) and abs(value) < 1e15) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _is_scalar(value: Any) -> bool:
    return (
        value is None or isinstance(value, bool) or _is_number(value) or _is_text(value)
    )
