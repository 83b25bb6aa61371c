"""`import larq_nobn` costs next to nothing on top of TensorFlow and Larq.

And the command imports these only where it needs them.

Checked by what it imports; `benchmarks/import_time.py` measures the seconds.
"""

import json
import os
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "weights"),
        (["--version"], larq_nobn.__version__),
        (["train", "--help"], "--resume"),
        (["weights"], "reactnet18_free_cifar10"),
    ],
)
def test_what_needs_no_tensorflow_starts_without(arguments, expected):
    run = subprocess.run(
        [sys.executable, "-m", "larq_nobn", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert expected in run.stdout
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "larq_nobn.cli" in imported
    assert not imported & {"tensorflow", "keras", "larq", "tensorflow_datasets"}


@pytest.mark.parametrize(
    ("argv", "is_command"),
    [
        (["python", "/usr/bin/larq-nobn", "weights"], True),
        (["python.exe", "C:/Scripts/larq-nobn.exe"], True),
        (["python", "-m", "larq_nobn"], True),
        (["python", "my_training.py", "larq-nobn"], False),
        (["python", "-c", "from multiprocessing.spawn import spawn_main"], False),
        (["python"], False),
        ([], False),
    ],
)
def test_only_the_command_waits_with_tensorflow(monkeypatch, argv, is_command):
    """A process that the command starts is not the command."""
    monkeypatch.setattr(sys, "orig_argv", argv)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/larq-nobn", "train"])
    assert larq_nobn._is_command() is is_command
