"""The guide does what it says: its code runs, its commands and links lead somewhere.

Each page's Python runs in order, in one namespace, in a process and folder of its own.
So do, in between, the `larq-nobn` commands of its shell blocks; those behind a comment
`<!-- parsed only: why -->` are only read by the command's own parser, as are those in
running text. Other shell commands are left alone.

What a test cannot have stands in: `tf.keras.datasets.cifar10.load_data()` gives 24
digits of scikit-learn, enlarged to 32×32 in colour, and the folder holds links to the
repository's `training/` and `zoo/`, as a clone does. `<!-- saved as: NAME -->` in front
of a block of Python also saves it under that name. A page that begins with
`<!-- tests: run functions eagerly -->` has `fit` take its few steps without tracing a
deep network, which takes most of a minute; README.md and other pages trace.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import guide
import pytest

from larq_nobn import cli

RUNNABLE = [
    page
    for page in guide.PAGES
    if any(block.language == "python" for block in guide.blocks(page))
]


def name(page: Path) -> str:
    return str(page.relative_to(guide.ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_code_runs(page, tmp_path):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(guide.ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    done = subprocess.run(
        [sys.executable, guide.__file__, str(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_larq_nobn_comes_before_tensorflow(page):
    """It selects Keras 2; from TensorFlow 2.16 on that has to come first."""
    code = "".join(b.code for b in guide.blocks(page) if b.language == "python")
    imports = re.findall(r"^(?:import|from) (larq_nobn|tensorflow)", code, re.MULTILINE)
    assert imports[0] == "larq_nobn"


@pytest.fixture
def parse(monkeypatch):
    """The command line without what it does."""
    monkeypatch.setattr(cli, "_run", lambda args: 0)

    def parse(arguments):
        try:
            status = cli.main(arguments)
        except SystemExit as stop:
            status = stop.code
        assert status == 0, f"larq-nobn {' '.join(arguments)} is refused"

    return parse


@pytest.mark.parametrize("page", guide.PAGES, ids=name)
def test_commands_are_known(page, parse):
    for block in guide.blocks(page):
        if block.language == "shell":
            for arguments in block.commands():
                parse(arguments)
    prose = guide._FENCE.sub("", page.read_text())
    for command in re.findall(r"`larq-nobn ([^`]+)`", prose):
        arguments = command.split()
        assert arguments[0] in cli.COMMANDS
        if len(arguments) > 1:
            parse(arguments)


def test_pages_are_found():
    names = {name(page) for page in RUNNABLE}
    assert {"README.md", "docs/deploy.md", "docs/train.md"} <= names
    languages = {b.language for page in guide.PAGES for b in guide.blocks(page)}
    assert languages <= {"python", "shell", "math", "text"}


def test_a_block_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\n```\n\n```python\nx / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        guide.run(page)
    last = error.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 8)


def test_a_command_that_fails_fails_its_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```shell\nlarq-nobn inspect missing.keras\n```\n")
    with pytest.raises(RuntimeError, match="inspect missing.keras ended with 2"):
        guide.run(page)


def test_a_command_that_is_renamed_fails_its_page(tmp_path, parse):
    page = tmp_path / "page.md"
    page.write_text("```shell\nlarq-nobn list \\\n  --markup  # a table\n```\n")
    with pytest.raises(AssertionError, match="list --markup is refused"):
        test_commands_are_known(page, parse)
    page.write_text("Or `larq-nobn lists`.\n")
    with pytest.raises(AssertionError):
        test_commands_are_known(page, parse)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=guide.ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_site_builds(site):
    pages = {page.relative_to(site) for page in site.rglob("*.html")}
    written = {Path(name(page)).relative_to("docs") for page in guide.PAGES[1:]}
    assert {page.with_suffix(".html") for page in written} <= pages
    formulas = (site / "api" / "layers.html").read_text()
    assert "<math" in formulas
    assert r"\(" not in formulas


@pytest.mark.slow
def test_site_asks_nobody_else(site):
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//"
        r"|<link(?![^>]+rel=[\"']?canonical)[^>]+href=[\"']?(?:https?:)?//"
        r"|url\([\"']?(?:https?:)?//|@import"
    )
    for file in (*site.rglob("*.html"), *site.rglob("*.css")):
        assert not loads.search(file.read_text()), file
