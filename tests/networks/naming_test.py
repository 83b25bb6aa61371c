import pytest

from larq_nobn import zoo
from larq_nobn.networks import FAMILIES, name_and_norm, place_of
from larq_nobn.networks.naming import BlockNames


@pytest.mark.parametrize(
    ("layer", "block", "numbers", "part"),
    [
        ("stage1_unit2_conv", "stage1_unit2", (1, 2), "conv"),
        ("stage4_unit12_conv_bn", "stage4_unit12", (4, 12), "conv_bn"),
        ("block13_pointwise2", "block13", (13,), "pointwise2"),
    ],
)
def test_places(layer, block, numbers, part):
    place = place_of(layer)
    assert (place.block, place.numbers, place.part) == (block, numbers, part)


@pytest.mark.parametrize(
    "layer",
    ["stem", "stem_bn", "classifier", "stage1", "stage1_unit2", "stage1_unit_conv"]
    + ["block01_conv", "block1", "blocks1_conv", "stage1_block1_conv", ""],
)
def test_layers_outside_of_blocks(layer):
    assert place_of(layer) is None


def test_a_plans_names_are_found(monkeypatch):
    class Plan:
        names = BlockNames(("group",))

    monkeypatch.setitem(FAMILIES, "other", Plan)
    assert place_of("group3_conv").block == "group3"


def test_built_models_are_recognized(tiny):
    assert name_and_norm(tiny("tiny_a", norm="batch")) == ("tiny_a", "batch")
    assert name_and_norm(zoo.create_model("abnet18", width=4)) == ("abnet18", "free")
