"""What a caller leaves open is what the weights are for."""

import dataclasses
import shutil

import numpy as np
import pytest
from small import FOLDER, SMALL, small_card, small_model

from larq_nobn import UserError, zoo
from larq_nobn.networks import build
from larq_nobn.weights.bundle import write_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """One bundle of `SMALL`, and one of another α and width, less accurate."""
    folder = tmp_path_factory.mktemp("zoo")
    card = dataclasses.replace(small_card(), metrics={"top1": 91.5})
    write_bundle(small_model(), card, folder)
    network = dataclasses.replace(card.network, alpha=0.5)
    card = dataclasses.replace(card, network=network, metrics={"top1": 80.0})
    write_bundle(build(network, classifier_activation=None), card, folder)
    return folder


@pytest.fixture(autouse=True)
def published(bundles, tmp_path, monkeypatch):
    """The bundles, and nothing else to choose from."""
    monkeypatch.setattr("larq_nobn.weights.sources.PACKAGED", tmp_path / "none")
    monkeypatch.setattr("larq_nobn.weights.hub.CHECKPOINTS", ())
    monkeypatch.setenv("LARQ_NOBN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "zoo"
    shutil.copytree(bundles, folder)
    monkeypatch.setenv("LARQ_NOBN_ZOO", str(folder))
    return folder


def test_weights_decide_what_is_open():
    model = zoo.ReActNet18NoBN(weights="cifar10")
    network = small_card().network
    assert model.input_shape == (None, *network.input_shape)
    assert model.output_shape == (None, network.num_classes)
    assert model.card.network == network
    assert model.card.metrics["top1"] == 91.5


@pytest.mark.slow
def test_what_is_given_explicitly_wins():
    model = zoo.ReActNet18NoBN(weights="cifar10", alpha=0.5)
    assert model.card.metrics["top1"] == 80.0
    with pytest.warns(UserWarning, match="Only the body was loaded"):
        model = zoo.ReActNet18NoBN(weights="cifar10", num_classes=3)
    assert model.output_shape == (None, 3)
    larger = zoo.ReActNet18NoBN(weights="cifar10", input_shape=(32, 32, 3))
    assert larger.input_shape == (None, 32, 32, 3)
    for wrong in ({"stem": "imagenet"}, {"alpha": 0.3}, {"width": 24}):
        with pytest.raises(UserError, match="No weights are published for"):
            zoo.ReActNet18NoBN(weights="cifar10", **wrong)
    with pytest.raises(UserError, match="`alpha` must be a positive number"):
        zoo.ReActNet18NoBN(weights="cifar10", alpha=-1)


def test_a_bundles_folder_decides_too(published):
    model = zoo.create_model("reactnet18", weights=published / FOLDER)
    assert model.card.network == small_card().network


def test_the_published_width_comes_before_accuracy(published):
    width = zoo.FAMILIES["reactnet18"].width
    network = dataclasses.replace(small_card().network, width=width, units=1)
    card = dataclasses.replace(small_card(), network=network, metrics={"top1": 5.0})
    write_bundle(build(network, classifier_activation=None), card, published)
    model = zoo.ReActNet18NoBN(weights="cifar10")
    assert model.card.network.width == width


def test_without_weights_the_defaults_are_todays():
    model = zoo.create_model("reactnet18", width=8)
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)


def test_a_bundles_name_is_a_network_with_weights():
    model = zoo.create_model(FOLDER)
    assert model.card.network == small_card().network
    plain = zoo.create_model(FOLDER, weights=None)
    assert not hasattr(plain, "card")
    assert plain.input_shape == model.input_shape
    kernels = [m.get_layer("stem").kernel.numpy() for m in (model, plain)]
    assert (kernels[0] != kernels[1]).any()
    logits = zoo.create_model(FOLDER, classifier_activation=None)
    images = np.ones((1, *model.input_shape[1:]), np.float32)
    expected = np.log(model.predict(images, verbose=0))
    actual = logits.predict(images, verbose=0)
    np.testing.assert_allclose(
        actual - actual.max(), expected - expected.max(), atol=1e-4
    )


def test_load(published):
    by_name, by_folder = zoo.load(FOLDER), zoo.load(published / FOLDER)
    assert by_name.card == by_folder.card == zoo.load(str(published / FOLDER)).card
    with pytest.warns(UserWarning, match="only the body"):
        body = zoo.load(FOLDER, include_top=False, pooling="max")
    assert body.output_shape == (None, SMALL["width"] * 8)
    for wrong in ("reactnet18_free_mnist", published, 5, ""):
        with pytest.raises(UserError, match="`bundle` must be a published model's"):
            zoo.load(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", "max", None])
def test_pooling(pooling):
    model = zoo.ReActNet18NoBN(
        stem="cifar", width=8, include_top=False, pooling=pooling
    )
    map_ = zoo.ReActNet18NoBN(stem="cifar", width=8, include_top=False)
    map_.set_weights(model.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    features = map_(images).numpy()
    reduce = {"avg": np.mean, "max": np.max, None: lambda x, axis: x}[pooling]
    expected = reduce(features, axis=(1, 2))
    np.testing.assert_allclose(model(images), expected, rtol=1e-5, atol=1e-6)


def test_wrong_pooling():
    with pytest.raises(UserError, match="`pooling` must be one of None, 'avg', 'max'"):
        zoo.ReActNet18NoBN(stem="cifar", width=8, include_top=False, pooling="sum")
