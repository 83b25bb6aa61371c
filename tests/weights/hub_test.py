"""The hub, played by a server on loopback."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch_files
from hub_server import COMMIT, HubServer
from small import random_state

from larq_nobn import UserError, zoo
from larq_nobn.cli import main
from larq_nobn.weights import hub
from larq_nobn.weights.card import read_card

AB = {
    (c.network.name, c.dataset): c
    for c in hub.CHECKPOINTS  # As published; the fixture below takes them away.
}
REPOSITORY = "Ruichen0424/AB-BNN"
TOKEN = "hf_right"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """Nothing of the user's hub."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    cache = str(tmp_path / "hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", cache + "/token")


@pytest.fixture
def server(monkeypatch):
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.close()


def publish(server, monkeypatch, *keys, form="module", **changes):
    """Put small networks in the place of A&B BNN's on the hub."""
    rows, states = [], {}
    for key in keys:
        row = AB[key]
        network = dataclasses.replace(row.network, width=8, **changes)
        row = dataclasses.replace(row, network=network, sha256=None)
        model = zoo.create_model(**dataclasses.asdict(network), weights=None)
        state = states[key] = random_state(model)
        path = server.tmp / "checkpoint.pt"
        content = {f"module.{k}": v for k, v in state.items()}
        torch_files.save(content, path)
        server.add(row.repository, row.file, path.read_bytes(), large=True)
        rows.append(row)
    monkeypatch.setattr(hub, "CHECKPOINTS", tuple(rows))
    return states


@pytest.fixture
def ab18(server, monkeypatch, tmp_path):
    """A server with a small ABNet18 on CIFAR-10, and its state dict."""
    server.tmp = tmp_path
    (state,) = publish(server, monkeypatch, ("abnet18", "cifar10")).values()
    return server, state


def _assert_holds(model, state):
    kernel = model.get_layer("stem").kernel.numpy()
    expected = state["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)
    classifier = model.get_layer("classifier").kernel.numpy()
    np.testing.assert_allclose(classifier, state["fc.weight"].T, rtol=1e-6)


def test_the_table():
    assert len(AB) == 7
    for (name, dataset), row in AB.items():
        assert row.file.startswith(f"models/{dataset}_reactnet")
        assert row.network.name == name
        assert row.card.network == row.network
    assert AB["abnet_a", "imagenet"].file == "models/imagenet_reactneta_step2.h5"
    assert AB["abnet34", "imagenet"].top1 == 65.19
    assert AB["abnet18", "cifar10"].network.stem == "cifar"


def test_first_call_downloads_and_the_second_is_offline(ab18, monkeypatch):
    server, state = ab18
    model = zoo.ABNet18(weights="cifar10")
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 10))
    _assert_holds(model, state)
    assert model.card.origin["top1 as published"] == "91.94 %"
    assert model.card.origin["commit"] == COMMIT
    assert model.card.mean == (0.485, 0.456, 0.406)
    # From the hub, by its redirect to another host; no other address of it.
    asked = [r for r in server.requests if "/api/" not in r]
    assert len(asked) == 2
    assert asked[0].endswith("/resolve/main/models/cifar10_reactnet18_step2.h5")
    assert asked[1].startswith("GET /storage/")
    server.requests.clear()
    server.close()
    monkeypatch.setenv("LARQ_NOBN_OFFLINE", "1")
    again = zoo.create_model("abnet18", weights="cifar10")
    _assert_holds(again, state)
    assert not server.requests


@pytest.mark.slow
def test_latent_weights(ab18):
    server, state = ab18
    zoo.ABNet18(weights="cifar10")
    model = zoo.ABNet18(weights="cifar10:full")
    kernel = model.get_layer("stage1_unit1_conv").kernel.numpy()
    expected = state["layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_relative_answers(server, monkeypatch, tmp_path):
    server.tmp = tmp_path
    states = publish(server, monkeypatch, ("abnet_a", "imagenet"))
    message = r"No weights of reactnet_a .* abnet_a .A&B BNN, arXiv 2403.03739., top-1 "
    with pytest.warns(UserWarning, match=rf"{message}66.89 %: create_model.'abnet_a'"):
        model = zoo.ReActNetNoBN(weights="imagenet")
    assert model.name == "abnet_a_free"
    stem = model.get_layer("stem").kernel.numpy()
    (state,) = states.values()
    expected = state["feature.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(stem, expected, rtol=1e-6)
    assert model.card.origin["top1 as published"] == "66.89 %"
    with pytest.raises(UserError, match="`alpha` must be that of the weights, 0.25"):
        zoo.ReActNetNoBN(weights="imagenet", alpha=0.2)
    for other in (zoo.ReActNetBN, zoo.ReActNetPlain, zoo.ReActNet18NoBN):
        with pytest.raises(UserError, match="No weights are published for"):
            other(weights="imagenet")


@pytest.mark.slow
def test_the_call_itself_does_not_warn(ab18):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "No weights|Nothing says")
        zoo.ABNet18(weights="cifar10")


def test_wrong_content(ab18):
    server, _ = ab18
    key = next(iter(server.large))
    content = bytearray(server.files[key])
    content[len(content) // 2] ^= 1
    server.wrong[key] = bytes(content)
    with pytest.raises(UserError, match="must have the SHA-256 "):
        zoo.ABNet18(weights="cifar10")


@pytest.mark.slow
def test_a_known_hash(ab18, monkeypatch):
    row = dataclasses.replace(hub.CHECKPOINTS[0], sha256="0" * 64)
    monkeypatch.setattr(hub, "CHECKPOINTS", (row,))
    with pytest.raises(UserError, match="must have the SHA-256 00000"):
        zoo.ABNet18(weights="cifar10")


@pytest.mark.slow
def test_a_changed_file_is_said(ab18, tmp_path):
    server, state = ab18
    zoo.ABNet18(weights="cifar10")
    (key,) = server.large
    state = {f"module.{k}": v * 1.01 for k, v in state.items()}
    other = torch_files.save(state, tmp_path / "other.pt").read_bytes()
    server.add(*key, other, large=True)
    server.commit = COMMIT[::-1]
    # Latent weights take a new download.
    with pytest.raises(UserError, match="must be what it was at first use"):
        zoo.ABNet18(weights="cifar10:full")


@pytest.mark.slow
def test_what_nothing_pins_is_said(ab18):
    server, _ = ab18
    server.large.clear()
    with pytest.warns(UserWarning, match="Nothing says what hf://Ruichen0424/AB-BNN/"):
        zoo.ABNet18(weights="cifar10")


@pytest.mark.slow
def test_cut_off(ab18):
    server, _ = ab18
    server.cut = True
    with pytest.raises(UserError, match="must be on the hub, or in its cache"):
        zoo.ABNet18(weights="cifar10")
    server.cut = False
    zoo.ABNet18(weights="cifar10")


@pytest.mark.slow
def test_no_network(ab18, monkeypatch):
    server, _ = ab18
    server.close()
    with pytest.raises(UserError, match="connect to the network once"):
        zoo.ABNet18(weights="cifar10")
    monkeypatch.setenv("LARQ_NOBN_OFFLINE", "1")
    with pytest.raises(UserError, match="without LARQ_NOBN_OFFLINE"):
        zoo.ABNet18(weights="cifar10")


def test_code_in_a_checkpoint(ab18):
    server, _ = ab18
    (key,) = server.large
    server.add(*key, b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00exit\x85R.", large=True)
    with pytest.raises(UserError, match="A PyTorch checkpoint must|nothing else is"):
        zoo.ABNet18(weights="cifar10")


@pytest.mark.slow
def test_listed(ab18, capsys):
    assert main(["weights"]) == 0
    output = capsys.readouterr().out
    assert "top1 91.94 % (as published)" in output
    assert "(to be downloaded)" in output
    zoo.ABNet18(weights="cifar10")
    assert main(["weights"]) == 0
    output = capsys.readouterr().out
    assert "(to be downloaded)" not in output
    assert "top1 91.94 % (as published)" in output


class TestBundles:
    """`hf://OWNER/REPOSITORY`."""

    ADDRESS = "hf://me/small"

    def put(self, server, folder):
        for path in folder.iterdir():
            large = path.suffix == ".npz"
            server.add("me/small", path.name, path.read_bytes(), large)

    @pytest.fixture
    def folder(self, bundles):
        (card,) = bundles.glob("*/card.json")
        return card.parent

    def test_load(self, server, folder):
        self.put(server, folder)
        card = read_card(folder / "card.json")
        model = zoo.create_model(card.network.name, weights=self.ADDRESS)
        assert model.card == card
        assert model.output_shape == (None, card.network.num_classes)
        same = zoo.load(f"{self.ADDRESS}@main:full")
        assert same.card == card
        expected = zoo.load(folder)
        image = np.ones((1, *card.network.input_shape), np.float32)
        np.testing.assert_allclose(
            model.predict(image, verbose=0), expected.predict(image, verbose=0), 1e-5
        )

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("hf://me", "must be hf://OWNER/REPOSITORY"),
            ("hf://me/small/other", "must be hf://OWNER/REPOSITORY"),
            ("hf://me/nothing", "must be on the hub"),
        ],
    )
    def test_wrong_addresses(self, server, address, message):
        with pytest.raises(UserError, match=message):
            zoo.create_model("reactnet18", weights=address)

    def test_another_network(self, server, folder):
        self.put(server, folder)
        with pytest.raises(UserError, match="must be for the network that is built"):
            zoo.create_model("reactnet18", weights=self.ADDRESS, width=24)

    def test_publish(self, server, folder, monkeypatch, capsys):
        command = ["publish", str(folder), "--to", "hf://me/mine"]
        assert main(command) == 2
        assert "HF_TOKEN" in capsys.readouterr().err
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert main(command) == 0, capsys.readouterr().err
        assert "hf://me/mine" in capsys.readouterr().out
        published = {p for repository, p in server.files if repository == "me/mine"}
        assert {"card.json", "README.md", "packed.npz"} <= published
        page = server.files["me/mine", "README.md"].decode()
        head = page.split("---")[1]
        values = dict(line.split(": ", 1) for line in head.strip().splitlines())
        assert json.loads(values["library_name"]) == "larq_nobn"
        assert json.loads(values["datasets"]) == ["cifar10"]
        assert zoo.load("hf://me/mine").card == read_card(folder / "card.json")
