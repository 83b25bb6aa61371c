"""Published weights and recipes travel inside the wheel, and are found everywhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small import FOLDER, SMALL, small_card, small_model

from larq_nobn import _shipped, zoo
from larq_nobn.training import load_recipe
from larq_nobn.weights.bundle import write_bundle

ROOT = Path(__file__).parents[2]
FIND = """
from larq_nobn import weights
from larq_nobn.training import load_recipe
found = [published.where for published in weights.list_weights()]
print(*(where for where in found if not where.startswith("hf://")), sep="\\n")
print(load_recipe("cifar10_reactnet18").dataset)
"""


@pytest.fixture
def source(tmp_path):
    """A copy of what the wheel is built from, with weights of its own in zoo/."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("larq_nobn", "training"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    write_bundle(small_model(), small_card(), copy / "zoo")
    return copy


def wheel_of(source, out) -> list[str]:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*build, "--quiet", "--no-index", "--wheel-dir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "installed")
        return archive.namelist()


@pytest.mark.slow
def test_wheel(source, tmp_path, monkeypatch):
    secret = small_card().__class__(
        **{**vars(small_card()), "dataset": "digits", "redistributable": False}
    )
    write_bundle(small_model(), secret, source / "zoo")
    names = wheel_of(source, tmp_path / "wheel")
    recipes = sorted(path.name for path in (ROOT / "training").glob("*.py"))
    assert len(recipes) == 9
    # Neither latent weights, nor weights that must not be passed on.
    assert sorted(name for name in names if "/shipped/" in name) == [
        *(f"larq_nobn/shipped/training/{name}" for name in recipes),
        f"larq_nobn/shipped/zoo/{FOLDER}/README.md",
        f"larq_nobn/shipped/zoo/{FOLDER}/card.json",
        f"larq_nobn/shipped/zoo/{FOLDER}/packed.npz",
    ]
    assert not [name for name in names if name.startswith(("tests", "training", "zoo"))]
    packaged = tmp_path / "wheel" / "installed" / "larq_nobn" / "shipped"
    monkeypatch.setattr("larq_nobn.weights.sources.PACKAGED", packaged / "zoo")
    model = zoo.create_model(**SMALL, weights="cifar10")
    assert model.card.metrics["top1"] == 91.5
    assert found_by(tmp_path / "wheel" / "installed") == [
        str(packaged / "zoo" / FOLDER)
    ]


def test_checkout(source):
    assert found_by(source) == [str(source / "zoo" / FOLDER)]


def found_by(path: Path) -> list[str]:
    """Where a process with this on its path finds weights; recipes it must find too."""
    done = subprocess.run(
        [sys.executable, "-c", FIND],
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *weights, dataset = done.stdout.splitlines()
    assert dataset == "cifar10"
    return weights


def test_folders_of_this_checkout():
    assert _shipped.shipped("zoo") == ROOT / "zoo"
    for path in (ROOT / "training").glob("*.py"):
        assert load_recipe(path.stem) == load_recipe(path)
