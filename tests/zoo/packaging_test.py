"""Published weights travel inside the wheel, and load from there."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small import FOLDER, SMALL, small_card, small_model

from larq_nobn import zoo
from larq_nobn.zoo.bundle import write_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    """A copy of what the wheel is built from, with weights of its own in zoo/."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(
        ROOT / "larq_nobn",
        copy / "larq_nobn",
        symlinks=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    assert (copy / "larq_nobn" / "zoo" / "bundles").is_symlink()
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
    write_bundle(small_model(), small_card(), source / "zoo")
    secret = small_card().__class__(
        **{**vars(small_card()), "dataset": "digits", "redistributable": False}
    )
    write_bundle(small_model(), secret, source / "zoo")
    names = wheel_of(source, tmp_path / "wheel")
    inside = [name for name in names if "/bundles/" in name]
    folder = f"larq_nobn/zoo/bundles/{FOLDER}"
    # Neither latent weights, nor weights that must not be passed on.
    assert sorted(inside) == [
        f"{folder}/README.md",
        f"{folder}/card.json",
        f"{folder}/packed.npz",
    ]
    assert not [name for name in names if name.startswith(("tests", "zoo"))]
    packaged = tmp_path / "wheel" / "installed" / "larq_nobn" / "zoo" / "bundles"
    monkeypatch.setattr("larq_nobn.zoo.sources.PACKAGED", packaged)
    model = zoo.create_model(**SMALL, weights="cifar10")
    assert model.card.metrics["top1"] == 91.5


def test_editable_install_finds_the_repositorys_weights():
    """In a clone, the package's bundles are the folder zoo/."""
    assert (ROOT / "larq_nobn" / "zoo" / "bundles").resolve() == ROOT / "zoo"
