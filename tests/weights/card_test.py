import copy
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larq_nobn import UserError
from larq_nobn.datasets import class_names
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights.card import (
    MAX_CARD_BYTES,
    Card,
    WeightsFile,
    folder_name,
    parse_card,
    read_card,
)

CARD = Card(
    network=NetworkSpec("reactnet18", stem="cifar", num_classes=10),
    dataset="cifar10",
    classes=class_names("cifar10"),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    metrics={"top1": 91.5},
    recipe={"name": "cifar10_reactnet18", "seed": 3, "epochs_step1": 256},
    versions={"larq_nobn": "0.1.0"},
    origin={"title": "a test"},
    license="Apache-2.0",
    redistributable=True,
    files={"packed": WeightsFile("packed.npz", 2_000_000, "0" * 64)},
)


def parse(content) -> Card:
    return parse_card(json.dumps(content).encode(), "card.json")


def test_round_trip(tmp_path):
    assert parse(CARD.to_json()) == CARD
    (tmp_path / "card.json").write_text(json.dumps(CARD.to_json()))
    assert read_card(tmp_path / "card.json") == CARD
    # Older versions read cards of what they know.
    later = {"units": 2, "surrogate": "ste_sign", "binary_activations": False}
    assert not set(CARD.to_json()["network"]) & set(later)
    for name, value in later.items():
        other = dataclasses.replace(CARD.network, **{name: value})
        card = dataclasses.replace(CARD, network=other)
        assert parse(card.to_json()) == card


@pytest.mark.parametrize(
    ("arguments", "dataset", "expected"),
    [
        ({"name": "reactnet_a"}, "imagenet", "reactnet_a_free_imagenet"),
        (
            {"name": "reactnet18", "stem": "cifar", "num_classes": 10},
            "cifar10",
            "reactnet18_free_cifar10",
        ),
        (
            {"name": "reactnet18", "norm": "batch", "binary_downsample": False},
            "imagenet",
            "reactnet18_batch_imagenet_real-downsample",
        ),
        # No downsample convolutions, so no choice; α is not used with batch norm.
        (
            {
                "name": "reactnet_a",
                "norm": "batch",
                "binary_downsample": False,
                "alpha": 0.3,
            },
            "imagenet",
            "reactnet_a_batch_imagenet",
        ),
        (
            {"name": "abnet18", "width": 8, "alpha": 0.3, "binary_weights": False},
            "cifar100",
            "abnet18_free_cifar100_step1_imagenet-stem_width8_alpha0.3",
        ),
        (
            {"name": "abnet18", "stem": "cifar", "units": 2},
            "cifar10",
            "abnet18_free_cifar10_units2",
        ),
    ],
)
def test_folder_name(arguments, dataset, expected):
    assert folder_name(NetworkSpec(**arguments), dataset) == expected


def changed(path: str, value) -> dict:
    """The card with one value replaced, or removed."""
    content = copy.deepcopy(CARD.to_json())
    *parents, last = path.split("/")
    inner = content
    for parent in parents:
        inner = inner[parent]
    if value is DELETE:
        del inner[last]
    else:
        inner[last] = value
    return json.loads(json.dumps(content))


DELETE = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "format 2, but this version of larq_nobn reads 1.*or update"),
        ("format", 0, "format 0 instead of 1"),
        ("format", True, "format True instead of 1"),
        ("format", DELETE, "the card without 'format'"),
        ("surprise", 1, "the card with the unknown 'surprise'"),
        ("network", [], "network that is no JSON object"),
        ("network/name", "resnet50", r"`name` must be one of .*name='resnet50'"),
        ("network/name", 3, "name 3"),
        ("network/units", 0, "`units` must be a positive integer"),
        ("network/units", 2.0, "units 2.0"),
        ("network/norm", "layer", "`norm` must be one of"),
        ("network/width", True, "width True"),
        ("network/width", 10**9, "width 1000000000"),
        ("network/num_classes", 10**6, "num_classes 1000000"),
        ("network/alpha", "0.2", "alpha '0.2'"),
        ("network/alpha", -1, "`alpha` must be a positive number"),
        ("network/stem", None, "stem None"),
        ("network/binary_weights", 2, "`binary_weights` must be one of True, False"),
        ("network/input_shape", "32", "input_shape '32'"),
        ("network/input_shape", [31, 31, 3], "`input_shape` must be .* multiples of 8"),
        ("network/input_shape", [32, 32], "`input_shape` must be"),
        ("network/color", "rgb", "network with the unknown 'color'"),
        ("dataset", "../etc", r"dataset '\.\./etc', which is no name"),
        ("dataset", None, "dataset None, which is no name"),
        ("classes", [["0", "cat"]], "classes that are not 10 pairs of id and name"),
        ("classes", [["0", 1]] * 10, "classes that are not 10 pairs"),
        ("classes", [["0", "\x1b[2J"]] * 10, "classes that are not 10 pairs"),
        ("mean", [0.5], "which is not one number per channel"),
        ("std", [0.5, 0, 0.5], "which is not one number per channel"),
        ("metrics", {"top1": "high"}, "metrics {'top1': 'high'}"),
        ("recipe", {"name": ["x"]}, "recipe"),
        ("versions", {"a": 1}, "versions"),
        ("origin", {"title": "\x1b[31mred"}, "origin"),
        ("license", None, "license None"),
        ("redistributable", 1, "redistributable 1"),
        ("files", {}, "files other than packed and full"),
        ("files/other", {}, "files other than packed and full"),
        ("files/packed/name", "../../packed.npz", r"file name '\.\./\.\./packed.npz'"),
        ("files/packed/name", "/etc/packed.npz", "the card's own folder"),
        ("files/packed/name", "..", "the card's own folder"),
        ("files/packed/name", "card.json", "the card's own folder"),
        ("files/packed/name", "http://x/a.npz", "the card's own folder"),
        ("files/packed/name", None, "the card's own folder"),
        ("files/packed/size", -1, "size -1"),
        ("files/packed/size", 1.5, "size 1.5"),
        ("files/packed/sha256", "abc", "sha256 'abc'"),
        ("files/packed/sha256", DELETE, "files/packed without 'sha256'"),
        ("files/packed/mode", "x", "files/packed with the unknown 'mode'"),
    ],
)
def test_malformed(path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(changed(path, value))
    assert str(caught.value).startswith("card.json must be the card of a published mod")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[1]", "the card that is no JSON object"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b'{"format": NaN}', "NaN is no JSON"),
        (b'{"format": 1' + b"0" * 10_000 + b"}", "no JSON"),
        (b" " * (MAX_CARD_BYTES + 1), "more than 1,048,576 bytes"),
    ],
)
def test_not_a_card(data, message):
    with pytest.raises(UserError, match=message):
        parse_card(data, "https://example.org/card.json")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["reactnet18", "free", "cifar", "imagenet"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def _paths(content, prefix=""):
    for key, value in content.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}/")


@settings(max_examples=500, deadline=None)
@given(path=st.sampled_from(list(_paths(CARD.to_json()))), value=JSON)
def test_fuzz_values(path, value):
    try:
        card = parse_card(json.dumps(changed(path, value)).encode(), "card.json")
    except UserError as error:
        str(error).encode()
        return
    assert parse(card.to_json()) == card


@settings(max_examples=300, deadline=None)
@given(at=st.floats(0, 1), inserted=st.binary(max_size=6), removed=st.integers(0, 40))
def test_fuzz_bytes(at, inserted, removed):
    data = json.dumps(CARD.to_json()).encode()
    at = int(at * len(data))
    try:
        parse_card(data[:at] + inserted + data[at + removed :], "card.json")
    except UserError as error:
        str(error).encode()
