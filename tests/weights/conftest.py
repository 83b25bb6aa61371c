"""Where the zoo's tests get small networks, bundles and mirrors."""

import dataclasses

import pytest
from mirror import Mirror
from small import small_card, small_model

from larq_nobn.weights.bundle import write_bundle


@pytest.fixture(autouse=True)
def _own_sources(tmp_path, monkeypatch):
    """No test sees the user's weights, nor writes into the user's cache."""
    for name in ("LARQ_NOBN_ZOO", "LARQ_NOBN_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LARQ_NOBN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("larq_nobn.weights.sources.PACKAGED", tmp_path / "packaged")
    monkeypatch.setattr("larq_nobn.weights.hub.CHECKPOINTS", ())


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """A folder with one bundle, of `SMALL` on CIFAR-10. Not to be changed."""
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(small_model(), small_card(), folder)
    return folder


@pytest.fixture(scope="session")
def others(tmp_path_factory):
    """The same network with other weights and another accuracy."""
    folder = tmp_path_factory.mktemp("others")
    card = dataclasses.replace(small_card(), metrics={"top1": 50.0})
    write_bundle(small_model(seed=1), card, folder, full=False)
    return folder


@pytest.fixture
def mirror(bundles):
    """A web server on loopback that serves `bundles`."""
    with Mirror(bundles) as server:
        yield server
