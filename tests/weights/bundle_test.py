import dataclasses
import json
import shutil

import numpy as np
import pytest
from small import FOLDER, SMALL, small_card, small_model

from larq_nobn import UserError, zoo
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights import bundle
from larq_nobn.weights.arrays import read_npz, write_npz
from larq_nobn.weights.bundle import load_weights, write_bundle
from larq_nobn.weights.card import WeightsFile, read_card
from larq_nobn.weights.files import call_arguments, check_size, load_index, verify
from larq_nobn.weights.transfer import named_weights


@pytest.fixture
def own(bundles, tmp_path):
    """A copy of the bundle, to be damaged."""
    shutil.copytree(bundles / FOLDER, tmp_path / FOLDER)
    return tmp_path / FOLDER


def test_content(bundles):
    folder = bundles / FOLDER
    names = ["README.md", "card.json", "full.npz", "packed.npz"]
    assert sorted(path.name for path in folder.iterdir()) == names
    card = read_card(folder / "card.json")
    for kind in ("packed", "full"):
        verify(folder / f"{kind}.npz", card.files[kind])
    without_files = dataclasses.replace(card, files={})
    assert without_files == small_card()
    index = json.loads((bundles / "index.json").read_text())
    assert index == {"format": 1, "bundles": [FOLDER]}
    full = read_npz(folder / "full.npz", 1 << 22)
    for name, variable in named_weights(small_model()).items():
        np.testing.assert_array_equal(full[name], variable)


def test_readme(bundles):
    text = (bundles / FOLDER / "README.md").read_text()
    assert text.startswith(f"# {FOLDER}\n")
    assert "| result | top1 91.5 %; top1_step1 93.25 % |" in text
    assert "| licence | Apache-2.0 |" in text
    card = read_card(bundles / FOLDER / "card.json")
    assert card.files["packed"].sha256 in text
    call = (
        "'reactnet18', stem='cifar', width=8, input_shape=(16, 16, 3), "
        'num_classes=10, weights="cifar10"'
    )
    assert call_arguments(card) == call
    in_double = call.replace("'", '"')
    assert f"model = zoo.create_model({in_double})" in text


def test_readme_of_weights_without_a_licence(tmp_path):
    card = dataclasses.replace(small_card(), license="", redistributable=False)
    assert "must not be passed on" in bundle.readme(card)


@pytest.mark.slow
def test_same_model_makes_same_files(bundles, tmp_path):
    write_bundle(small_model(), small_card(), tmp_path)
    for name in ("packed.npz", "full.npz", "card.json", "README.md"):
        expected = (bundles / FOLDER / name).read_bytes()
        assert (tmp_path / FOLDER / name).read_bytes() == expected


@pytest.mark.slow
def test_existing_bundle_is_replaced_only_on_demand(own):
    out = own.parent
    with pytest.raises(UserError, match="which exists.*--overwrite"):
        write_bundle(small_model(), small_card(), out)
    card = dataclasses.replace(small_card(), metrics={"top1": 1.0})
    write_bundle(
        small_model(), card, out, full=False, overwrite=True, extra={"curve.png": b"x"}
    )
    assert sorted(path.name for path in own.iterdir()) == [
        "README.md",
        "card.json",
        "curve.png",
        "packed.npz",
    ]
    assert read_card(own / "card.json").metrics == {"top1": 1.0}
    assert "![curve](curve.png)" in (own / "README.md").read_text()


def test_step_1_has_nothing_to_pack(tmp_path):
    arguments = {**SMALL, "binary_weights": False}
    model = zoo.create_model(**arguments)
    card = dataclasses.replace(small_card(), network=NetworkSpec(**arguments))
    folder = write_bundle(model, card, tmp_path, full=False)
    assert list(read_card(folder / "card.json").files) == ["full"]
    loaded = zoo.create_model(**arguments, weights=folder)
    for one, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_what_is_written_is_compared(tmp_path, monkeypatch):
    def one_bit_off(model, dtype):
        arrays = pack(model, dtype)
        arrays["stage1_unit1_conv/kernel:bits"][0] ^= 1
        return arrays

    pack = bundle.pack_weights
    monkeypatch.setattr(bundle, "pack_weights", one_bit_off)
    with pytest.raises(UserError, match="packed weights must give the model's kernels"):
        write_bundle(small_model(), small_card(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["packed", "full"])
def test_damaged_files(own, kind):
    file = own / f"{kind}.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    card = read_card(own / "card.json")
    for damaged in (content, content[:-1], content + b"x", b"<html>"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="must be the file that its card describes"):
            verify(file, card.files[kind])


@pytest.mark.slow
def test_file_of_another_network(bundles):
    model = zoo.create_model(**{**SMALL, "name": "abnet18"})
    # The names are the same, but not all shapes would be, were it wider.
    wider = zoo.create_model(**{**SMALL, "width": 16})
    path = bundles / FOLDER / "full.npz"
    with pytest.raises(UserError, match=r"weights in .*full.npz must have exactly"):
        load_weights(wider, path)
    load_weights(model, path)


def test_bomb(own):
    """A weights file of the right names, but far larger than the network."""
    arrays = read_npz(own / "full.npz", 1 << 22)
    arrays["stem/kernel"] = np.zeros((3, 3, 3, 1_000_000), np.float32)
    write_npz(own / "full.npz", arrays, compress=True)
    model = zoo.create_model(**SMALL)
    card = read_card(own / "card.json")
    with pytest.raises(UserError, match="unpacks to .* bytes, where at most"):
        load_weights(model, own / "full.npz", card)
    with pytest.raises(UserError, match="a card that says 1,000,000,000 bytes"):
        check_size(model, card, WeightsFile("full.npz", 10**9, "0" * 64))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format": 2, "bundles": []}',
        b'{"format": 1, "bundles": ["../x"]}',
    ],
)
def test_wrong_index(data):
    with pytest.raises(UserError, match="x must be the index of a folder of up to"):
        load_index(data, "x")
