from pathlib import Path

import larq as lq
import pytest

from larq_nobn._tables import markdown_table
from larq_nobn.networks import FAMILIES
from larq_nobn.weights.sources import PACKAGED, Folder
from larq_nobn.zoo.table import HEADER, model_table, weights_table


@pytest.mark.slow
def test_model_table(tiny, monkeypatch):
    """Its numbers are those of Larq's summary."""
    families = {"tiny": FAMILIES["tiny"]}
    monkeypatch.setattr("larq_nobn.zoo.table.FAMILIES", families)
    header, *rows = model_table()
    assert header == HEADER
    assert [row[:3] for row in rows] == [
        ["tiny", norm, stem]
        for stem in ("imagenet", "cifar")
        for norm in ("free", "batch", "none")
    ]
    for row in rows:
        _, norm, stem = row[:3]
        classes = 1000 if stem == "imagenet" else 10
        model = tiny(norm=norm, stem=stem, num_classes=classes, input_shape=None)
        profile = lq.models.ModelProfile(model)
        bytes_at_1_bit = profile.memory / 8
        assert row[3] == f"{profile.weight_count() / 1e6:.2f} M"
        assert row[4] == f"{profile.op_count('mac', 1) / 1e6:.0f} M"
        assert row[6] == f"{bytes_at_1_bit / 1e6:.2f} MB"


def test_readme_has_the_table_of_trained_networks():
    packaged = Folder(PACKAGED).survey([])
    table = markdown_table(*weights_table(packaged))
    assert table.count("\n") > 2
    readme = Path(__file__).parents[2] / "README.md"
    assert table in readme.read_text(), "renew it: larq-nobn weights --markdown"
