"""`import larq_nobn` costs next to nothing on top of TensorFlow and Larq.

Checked by what it imports; `benchmarks/import_time.py` measures the seconds.
"""

import json
import subprocess
import sys

import pytest

import larq_nobn

_IMPORTS = """
import json, sys
import tensorflow, larq
before = set(sys.modules)
import larq_nobn
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture(scope="module")
def imported():
    """The modules that `import larq_nobn` adds to those of TensorFlow and Larq."""
    command = [sys.executable, "-c", _IMPORTS]
    # With newer TensorFlow, importing larq_nobn here has set what selects Keras 2.
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_imports_nothing_but_itself(imported):
    """No data, plotting, tuning or conversion library."""
    assert {name.split(".")[0] for name in imported} == {"larq_nobn"}


@pytest.mark.parametrize("name", larq_nobn._LAZY)
def test_lazy_modules_wait_for_their_first_use(imported, name):
    assert f"larq_nobn.{name}" not in imported
    assert getattr(larq_nobn, name).__name__ == f"larq_nobn.{name}"
    assert name in larq_nobn.__all__


def test_unknown_attributes():
    with pytest.raises(
        AttributeError, match="module 'larq_nobn' has no attribute 'zo'"
    ):
        larq_nobn.zo  # noqa: B018
