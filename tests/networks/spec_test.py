"""One description of a network, equal where the networks are."""

import dataclasses
import inspect

import pytest

from larq_nobn import UserError, zoo
from larq_nobn.networks import NetworkSpec
from larq_nobn.training import Recipe


def test_equal_networks_are_equal():
    open_ = NetworkSpec("reactnet18")
    filled = NetworkSpec(
        "reactnet18", alpha=0.2, width=64, units=4, input_shape=[224, 224, 3]
    )
    assert open_ == filled
    assert (open_.alpha, open_.width, open_.units) == (0.2, 64, None)
    assert NetworkSpec("reactnet_a", binary_downsample=False) == NetworkSpec(
        "reactnet_a"
    )
    assert NetworkSpec("abnet18").alpha == 0.25
    assert NetworkSpec("reactnet18", norm="batch", alpha=0.3).alpha == 1
    twin = NetworkSpec("reactnet18", binary_activations=False)
    assert not twin.binary_weights


def test_same_body():
    network = NetworkSpec("reactnet18", stem="cifar", num_classes=10)
    for same in (
        {"num_classes": 7},
        {"input_shape": (64, None, 3)},
        {"surrogate": "ste_sign"},
    ):
        assert network.shares_body_with(dataclasses.replace(network, **same))
    for other in (
        {"norm": "batch"},
        {"binary_weights": False},
        {"binary_downsample": False},
        {"alpha": 0.3},
        {"width": 32},
        {"units": 2},
        {"input_shape": (32, 32, 1)},
        {"binary_activations": False},
    ):
        assert not network.shares_body_with(dataclasses.replace(network, **other))


def test_fields_are_create_models_arguments():
    parameters = inspect.signature(zoo.create_model).parameters
    # What weights may decide is open.
    is_open = {"stem": None, "num_classes": None}
    for field in dataclasses.fields(NetworkSpec)[1:]:
        expected = is_open.get(field.name, field.default)
        assert parameters[field.name].default == expected


def test_recipes_hold_it():
    recipe = Recipe(
        name="r", dataset="digits", model="abnet18", stem="cifar", units=1, width=8
    )
    assert recipe.network == NetworkSpec(
        "abnet18",
        stem="cifar",
        units=1,
        width=8,
        input_shape=(8, 8, 1),
        num_classes=10,
    )
    assert not recipe.network_of("step1").binary_weights
    assert NetworkSpec(**recipe.model_arguments()) == recipe.network
    with pytest.raises(UserError, match="`norm` must be one of 'free'. Received"):
        recipe.replace(norm="batch")
