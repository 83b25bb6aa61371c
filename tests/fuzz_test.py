"""The first inputs of each kind; `python tests/fuzz.py --seconds 600` goes on."""

import pytest
from fuzz import Fuzzer

from larq_nobn.networks import FAMILIES


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    before = dict(FAMILIES)
    yield Fuzzer(tmp_path_factory.mktemp("fuzz"))
    FAMILIES.clear()
    FAMILIES.update(before)


@pytest.mark.filterwarnings("ignore")
def test_nothing_foreign_and_nothing_silent(fuzzer):
    for kind in fuzzer.kinds:
        count = fuzzer.run(kind, iter(range(60)), seconds=3)
        assert count["inputs"]
        assert not count["foreign"], kind
        assert not count["silently wrong"], kind
