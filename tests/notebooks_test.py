"""The notebooks run from top to bottom, and reach what they say."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
# The least that these percentages may be, in the order in which they are printed.
AT_LEAST = {"first_network": [94], "remove_batch_norm": [88, 88]}


def printed(notebook) -> str:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.text for out in outputs if out.output_type == "stream")


def pictures(notebook) -> int:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return sum("image/png" in out.get("data", {}) for out in outputs)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_all_are_listed():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {*AT_LEAST}


@pytest.mark.parametrize("name", AT_LEAST)
def test_stored_as_run(name):
    """The site shows what was stored: whole, and nothing but the notebook's own."""
    notebook = read(name)
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    assert pictures(notebook) > 1
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert {out.get("name", "stdout") for out in outputs} == {"stdout"}
    assert "/" not in re.sub(r"\d+/\d+", "", printed(notebook))


@pytest.mark.slow
@pytest.mark.network  # Kernels listen on loopback.
@pytest.mark.lce
@pytest.mark.parametrize("name", AT_LEAST)
def test_runs(name, tmp_path):
    notebook = read(name)
    stored = pictures(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    found = [float(x) for x in re.findall(r"([\d.]+) %", printed(notebook))]
    for value, least in zip(found, AT_LEAST[name], strict=False):
        assert value >= least
    assert len(found) >= len(AT_LEAST[name])
    assert pictures(notebook) == stored
