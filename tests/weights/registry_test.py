import dataclasses
import functools
import json
import shutil

import mirror as behaviour
import numpy as np
import pytest
from small import FOLDER, SMALL, small_card, small_model

from larq_nobn import UserError, zoo
from larq_nobn.cli import main
from larq_nobn.networks import NetworkSpec
from larq_nobn.weights import loading, registry, sources
from larq_nobn.weights.sources import split_entries

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


@pytest.fixture
def search(monkeypatch):
    """Sets LARQ_NOBN_ZOO."""

    def set_entries(*entries):
        monkeypatch.setenv("LARQ_NOBN_ZOO", ",".join(map(str, entries)))

    return set_entries


@functools.cache
def shared_model():
    """Building networks is what takes time here."""
    return zoo.create_model(**SMALL, classifier_activation=None)


def load(weights="cifar10", include_top=True, **changes):
    """What `create_model` does with `weights`, once it has built the network."""
    network = NetworkSpec(**{**SMALL, **changes})
    loading.load(shared_model(), weights, network, include_top)
    return shared_model()


def build(weights="cifar10", **changes):
    arguments = {**SMALL, "classifier_activation": None, **changes}
    return zoo.create_model(**arguments, weights=weights)


def top1(model) -> float:
    """Tells the two published bundles apart."""
    return model.card.metrics["top1"]


@functools.cache
def expected_logits():
    return small_model()(zoo.preprocess_input(IMAGES, small_card()))


def same_logits(model):
    actual = model(zoo.preprocess_input(IMAGES, model))
    np.testing.assert_allclose(actual, expected_logits(), rtol=1e-4, atol=1e-4)


def test_folder(bundles, search):
    search(bundles)
    same_logits(load())
    assert not sources.cache_folder().exists()


@pytest.mark.parametrize("kind", ["packed", "full"])
def test_kind(bundles, search, kind):
    search(bundles)
    model = load(f"cifar10:{kind}")
    same_logits(model)
    values = np.unique(model.get_layer("stage1_unit1_conv").kernel)
    assert (len(values) == 2) == (kind == "packed")


@pytest.mark.parametrize("prefix", ["{}", "file://{}", "{}/" + FOLDER])
def test_paths(bundles, search, prefix):
    search(prefix.format(bundles))
    assert top1(load()) == 91.5


def test_bundle_as_path(bundles):
    model = load(bundles / FOLDER)
    same_logits(model)
    assert top1(model) == 91.5
    with pytest.raises(
        UserError, match=r"weights for create_model\('reactnet18', stem"
    ):
        load(bundles / FOLDER, norm="none")


@pytest.mark.parametrize("kind", ["packed", "full"])
def test_file_as_path(bundles, kind):
    load(bundles / FOLDER / f"{kind}.npz")
    images = zoo.preprocess_input(IMAGES, small_card())
    actual = shared_model()(images)
    np.testing.assert_allclose(actual, expected_logits(), rtol=1e-4, atol=1e-4)


def test_order(bundles, others, search, tmp_path):
    """The package, then LARQ_NOBN_ZOO from left to right, then the cache."""
    shutil.copytree(others, sources.cache_folder() / "zoo")
    assert top1(load()) == 50
    search(bundles)
    assert top1(load()) == 91.5
    search(others, bundles)
    assert top1(load()) == 50
    shutil.copytree(bundles, tmp_path / "packaged")
    assert top1(load()) == 91.5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("/a", ["/a"]),
        ("/a, ~/b;c", ["/a", "~/b", "c"]),
        ("/a:./b:../c:~/d", ["/a", "./b", "../c", "~/d"]),
        (
            "http://h:8000/zoo:https://i/z:file:///a:/b",
            ["http://h:8000/zoo", "https://i/z", "file:///a", "/b"],
        ),
    ],
)
def test_separators(value, expected):
    assert split_entries(value) == expected


@pytest.mark.network
def test_mirror(mirror, search, monkeypatch):
    search(mirror.url)
    same_logits(load())
    assert mirror.requests == [f"/{FOLDER}/card.json"] * 2 + [f"/{FOLDER}/packed.npz"]
    same_logits(load())
    assert len(mirror.requests) == 3, "the second time comes from the cache"
    same_logits(load("cifar10:full"))
    assert mirror.requests[-1] == f"/{FOLDER}/full.npz"
    count = len(mirror.requests)
    monkeypatch.setenv("LARQ_NOBN_OFFLINE", "1")
    same_logits(load())
    monkeypatch.delenv("LARQ_NOBN_ZOO")
    same_logits(load())
    assert len(mirror.requests) == count


@pytest.mark.network
def test_password_in_an_address_is_not_shown(mirror, search):
    search(mirror.url.replace("//", "//me:secret@"))
    (entry,) = zoo.list_weights()
    assert entry.where == f"{mirror.url}/{FOLDER}"
    mirror.misbehave["card.json"] = behaviour.server_error
    with pytest.raises(UserError, match="HTTP 503") as caught:
        load()
    assert "secret" not in str(caught.value)


@pytest.mark.network
def test_damaged_cache_is_downloaded_again(mirror, search):
    search(mirror.url)
    load()
    (file,) = sources.cache_folder().glob(f"mirrors/*/{FOLDER}/packed.npz")
    good = file.read_bytes()
    file.write_bytes(good[:-1])
    same_logits(load())
    assert file.read_bytes() == good


@pytest.mark.network
def test_offline_and_not_in_the_cache(mirror, search, monkeypatch):
    search(mirror.url)
    monkeypatch.setenv("LARQ_NOBN_OFFLINE", "1")
    with pytest.raises(UserError, match="was not asked: LARQ_NOBN_OFFLINE is set"):
        load()
    assert mirror.requests == []


@pytest.mark.network
@pytest.mark.parametrize(
    ("file", "misbehaviour", "message"),
    [
        ("card.json", behaviour.html, "card.json must be .* an HTML page"),
        ("card.json", behaviour.cut, "broke the connection"),
        ("card.json", behaviour.redirect_in_a_loop, "redirects more than"),
        ("card.json", behaviour.endless, "more than 1,048,576 bytes"),
        ("card.json", behaviour.server_error, "HTTP 503"),
        ("packed.npz", behaviour.bit_flipped, "must be the file that its card"),
        ("packed.npz", behaviour.cut, "in 3 attempts"),
        ("packed.npz", behaviour.oversized, "sends more than"),
    ],
)
def test_misbehaving_mirror(mirror, search, file, misbehaviour, message):
    search(mirror.url)
    mirror.misbehave[file] = misbehaviour
    with pytest.raises(UserError, match=message):
        load()
    left = [path for path in sources.cache_folder().rglob("*") if path.is_file()]
    assert left == []
    mirror.misbehave.clear()
    same_logits(load())


@pytest.mark.network
def test_mirror_with_another_bundle_under_the_name(mirror, search, bundles, tmp_path):
    shutil.copytree(bundles, tmp_path / "files")
    mirror.folder = tmp_path / "files"
    card = dataclasses.replace(small_card(), dataset="digits")
    content = json.loads((bundles / FOLDER / "card.json").read_text())
    content["dataset"] = card.dataset
    (mirror.folder / FOLDER / "card.json").write_text(json.dumps(content))
    search(mirror.url)
    with pytest.raises(UserError, match=f"is not {FOLDER}, but reactnet18_free_digits"):
        load()


@pytest.mark.network
def test_card_that_announces_too_much(mirror, search, bundles, tmp_path):
    shutil.copytree(bundles, tmp_path / "files")
    mirror.folder = tmp_path / "files"
    content = json.loads((bundles / FOLDER / "card.json").read_text())
    content["files"]["packed"]["size"] = 10**12
    (mirror.folder / FOLDER / "card.json").write_text(json.dumps(content))
    search(mirror.url)
    with pytest.raises(UserError, match="size 1000000000000"):
        load()
    assert f"/{FOLDER}/packed.npz" not in mirror.requests


@pytest.mark.network
def test_dead_mirror_is_passed_over_aloud(bundles, search):
    with behaviour.Mirror(bundles) as dead:
        pass
    search(dead.url, bundles)
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert top1(load()) == 91.5


def test_damaged_bundles_are_passed_over_aloud(bundles, search, tmp_path):
    shutil.copytree(bundles, tmp_path / "bad")
    (tmp_path / "bad" / FOLDER / "card.json").write_text("{}")
    search(tmp_path / "bad", tmp_path / "none", bundles)
    with pytest.warns(UserWarning, match="neither a folder nor"):  # noqa: SIM117
        with pytest.warns(UserWarning, match="must be the card of a published model"):
            assert top1(load()) == 91.5


def test_damaged_weights_and_no_others(bundles, search, tmp_path):
    shutil.copytree(bundles, tmp_path / "bad")
    file = tmp_path / "bad" / FOLDER / "packed.npz"
    file.write_bytes(file.read_bytes()[:-1])
    search(tmp_path / "bad")
    with pytest.raises(UserError, match="must be the file that its card describes"):
        load()
    same_logits(load("cifar10:full"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("http://[", "http://\\[ in LARQ_NOBN_ZOO: Invalid IPv6"),
        ("~nouser/x", "~nouser/x in LARQ_NOBN_ZOO: Could not determine home"),
        ("x" * 5000, "in LARQ_NOBN_ZOO: .*File name too long"),
    ],
)
def test_strange_entries_are_passed_over_aloud(bundles, search, entry, message):
    search(entry, bundles)
    with pytest.warns(UserWarning, match=message):
        assert top1(load()) == 91.5


def test_packaged_weights_need_no_cache(bundles, tmp_path, monkeypatch):
    shutil.copytree(bundles, tmp_path / "packaged")
    monkeypatch.setenv("LARQ_NOBN_CACHE", "~nouser/cache")
    with pytest.warns(UserWarning, match="Weights need a cache folder.*~nouser"):
        assert top1(load()) == 91.5


def test_folders_that_cannot_be_read(bundles, search, monkeypatch):
    def unreadable(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources.Cache, "_cards", unreadable)
    search(bundles)
    _, problems = registry.survey()
    assert problems == [f"{sources.cache_folder()}: [Errno 13] Permission denied"]


@pytest.mark.network
def test_a_damaged_card_hides_no_other(mirror, search, bundles, tmp_path):
    mirror.folder = tmp_path / "files"
    shutil.copytree(bundles, mirror.folder)
    index = {"format": 1, "bundles": ["a", "b", "a", FOLDER]}
    (mirror.folder / "index.json").write_text(json.dumps(index))
    (mirror.folder / "a").mkdir()
    (mirror.folder / "a" / "card.json").write_text("{}")
    search(mirror.url)
    with pytest.warns(UserWarning, match="a/card.json must be the card") as warned:
        assert [entry.card.folder_name for entry in zoo.list_weights()] == [FOLDER]
    assert len(warned) == 1


@pytest.mark.network
def test_a_dead_mirror_is_not_asked_for_every_card(mirror, search, tmp_path):
    mirror.folder = tmp_path
    index = {"format": 1, "bundles": [f"b{i}" for i in range(500)]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    mirror.misbehave["card.json"] = behaviour.server_error
    search(mirror.url)
    found, problems = registry.survey()
    assert not found
    assert "was asked no further" in problems[-1]
    assert len(mirror.requests) == 4


@pytest.mark.network
@pytest.mark.parametrize(
    "names", ["abc", ["../x"], [["a"]], [f"b{i}" for i in range(2000)]]
)
def test_strange_indexes(mirror, search, tmp_path, names):
    mirror.folder = tmp_path
    (tmp_path / "index.json").write_text(json.dumps({"format": 1, "bundles": names}))
    search(mirror.url)
    with pytest.warns(UserWarning, match="must be the index of a folder of"):
        assert zoo.list_weights() == []
    assert mirror.requests == ["/index.json"]


@pytest.mark.parametrize("claimed", [None, 60_000_000])
def test_a_network_too_wide_for_its_files_is_not_built(
    bundles, tmp_path, capsys, claimed
):
    shutil.copytree(bundles / FOLDER, tmp_path / "wide")
    path = tmp_path / "wide" / "card.json"
    card = json.loads(path.read_text())
    card["network"]["width"] = 600 if claimed else 20_000
    for file in card["files"].values() if claimed else ():
        file["size"] = claimed * (10 if file["name"] == "full.npz" else 1)
    path.write_text(json.dumps(card))
    assert main(["inspect", str(tmp_path / "wide")]) == 2
    expected = "must be the file that its card" if claimed else "a network too wide for"
    assert expected in capsys.readouterr().err


def test_missing_kind(others, search, bundles):
    search(others)
    with pytest.raises(UserError, match=r"has no full ones .* leave out ':full'"):
        load("cifar10:full")
    search(others, bundles)
    with pytest.warns(UserWarning, match="has no full ones"):
        assert top1(load("cifar10:full")) == 91.5


def test_none_published():
    with pytest.raises(UserError) as caught:
        zoo.ReActNetNoBN(weights="imagenet", input_shape=(32, 32, 3))
    text = str(caught.value)
    assert "No weights are published for reactnet_a (norm='free'" in text
    assert "on 'imagenet'; published: none yet." in text
    command = "larq-nobn import FILE --model reactnet_a --norm free --data imagenet"
    assert command in text
    assert "larq-nobn train" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "none"},
        {"binary_weights": False},
        {"binary_downsample": False},
        {"alpha": 0.3},
        {"width": 16},
        {"stem": "imagenet", "input_shape": (32, 32, 3)},
        {"input_shape": (16, 16, 1)},
        {"name": "reactnet34"},
        {"name": "abnet18"},
    ],
)
def test_other_networks_get_no_weights(bundles, search, changes):
    """All of these would compute something else; most have the same shapes."""
    search(bundles)
    with pytest.raises(UserError, match="No weights are published") as caught:
        load(**changes)
    assert "published: create_model('reactnet18', stem='cifar'" in str(caught.value)
    assert "(top-1 91.50 %)" in str(caught.value)


def test_other_image_sizes_do(bundles, search):
    search(bundles)
    assert top1(load(input_shape=(32, 24, 3))) == 91.5
    assert top1(load(input_shape=(None, None, 3))) == 91.5


def test_body_only(bundles, search):
    search(bundles)
    with pytest.warns(UserWarning, match="num_classes=7 starts from random weights"):
        seven = build(num_classes=7)
    with pytest.warns(UserWarning, match="include_top=False: only the body"):
        body = build(include_top=False)
    full = small_model()
    images = zoo.preprocess_input(IMAGES, body)
    expected = full.get_layer("pool")(body(images))
    logits = full.get_layer("classifier")(expected)
    np.testing.assert_allclose(logits, full(images), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        seven.get_layer("stem").kernel, full.get_layer("stem").kernel
    )
    with pytest.raises(UserError, match="No weights are published"):
        build("digits", include_top=False)


def test_preprocessing_follows_the_card(bundles, search):
    search(bundles)
    model = load()
    card = model.card
    images = np.full((1, 2, 2, 3), 255, np.uint8)
    expected = (1 - np.array([0.1, 0.2, 0.3])) / np.array([0.4, 0.5, 0.6])
    for described in (model, card):
        actual = zoo.preprocess_input(images, described)
        np.testing.assert_allclose(actual[0, 0, 0], expected, rtol=1e-6)
    usual = zoo.preprocess_input(images, "cifar10")
    assert np.abs(usual[0, 0, 0] - expected).max() > 0.1
    with pytest.raises(UserError, match="Images of cifar10 have 3 channels"):
        zoo.preprocess_input(images[..., :1], model)


def test_predictions_follow_the_card(bundles, search):
    search(bundles)
    model = load()
    ((best, *_),) = zoo.decode_predictions(np.eye(10)[[3]], 2, model)
    assert best == ("3", "cat", 1.0)
    with pytest.raises(UserError, match=r"cifar10 must have the shape \(batch, 10\)"):
        zoo.decode_predictions(np.zeros((1, 1000)), dataset=model)


def test_model_without_a_card():
    model = zoo.create_model(**SMALL)
    for call in (
        lambda: zoo.preprocess_input(IMAGES, model),
        lambda: zoo.decode_predictions(np.zeros((1, 10)), dataset=model),
    ):
        with pytest.raises(UserError, match="must have a card to say how its images"):
            call()


def test_imagenet_names_without_a_network():
    ((best, second),) = zoo.decode_predictions(np.arange(1000.0)[None] / 1000, 2)
    assert best == ("n15075141", "toilet_tissue", 0.999)
    assert second == ("n13133613", "ear", 0.998)


def test_list(bundles, others, search, capsys):
    search(bundles, others)
    shutil.copytree(bundles, sources.cache_folder() / "zoo")
    found = zoo.list_weights()
    assert [entry.card.metrics["top1"] for entry in found] == [91.5, 50, 91.5]
    first = found[0]
    assert (first.name, first.dataset) == ("reactnet18", "cifar10")
    assert first.where == str(bundles / FOLDER)
    assert first.size == (bundles / FOLDER / "packed.npz").stat().st_size
    assert main(["weights"]) == 0
    output = capsys.readouterr().out
    assert "data set" in output.splitlines()[0]
    assert output.startswith(str(found))
    assert output.count("cifar10   top1 91.50 %, top1_step1 93.25 %  0.0") == 2
    assert str(others / FOLDER) in output


@pytest.mark.network
def test_list_of_a_mirror(mirror, search, monkeypatch, capsys):
    search(mirror.url)
    (entry,) = zoo.list_weights()
    assert entry.where == f"{mirror.url}/{FOLDER}"
    mirror.misbehave["index.json"] = behaviour.html
    assert main(["weights"]) == 0
    captured = capsys.readouterr()
    assert "No published weights were found." in captured.out
    assert "index.json must be the index of a folder of" in captured.err
    mirror.misbehave["index.json"] = lambda handler, _: behaviour.send(
        handler, b"", 404
    )
    with pytest.warns(UserWarning, match="no index.json, so it cannot be listed"):
        assert zoo.list_weights() == []
    monkeypatch.setenv("LARQ_NOBN_OFFLINE", "1")
    with pytest.warns(UserWarning, match="was not asked"):
        assert zoo.list_weights() == []


@pytest.mark.parametrize("weights", ["cifar10:half", "../x", "no/such.h5", 3, ""])
def test_wrong_names(weights):
    with pytest.raises(UserError, match="`weights` must be"):
        load(weights)


def test_folder_of_data_of_the_same_name(bundles, search, tmp_path, monkeypatch):
    """`weights="cifar10"` does not mean ./cifar10."""
    search(bundles)
    (tmp_path / "cifar10").mkdir()
    monkeypatch.chdir(tmp_path)
    assert top1(load()) == 91.5


def test_torch_file_as_weights(tmp_path):
    """A&B BNN's .h5 files are PyTorch files by another name."""
    path = tmp_path / "imagenet_reactneta_step2.h5"
    path.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(
        UserError, match="a PyTorch file .*A&B BNN's.* larq-nobn import"
    ):
        load(path)


def test_saved_model_keeps_working(bundles, search, tmp_path):
    search(bundles)
    model = build()
    model.save(tmp_path / "model.keras")
    same_logits(model)
    again = build(tmp_path / "model.keras")
    images = zoo.preprocess_input(IMAGES, model)
    np.testing.assert_array_equal(again(images), model(images))
