"""Dependencies between the package's modules point one way.

Every import counts, those inside functions too, and `larq_nobn.NAME` as an attribute.
An import of a module is one of the packages around it as well, except those that the
importing module lies in itself.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import larq_nobn

PACKAGE = Path(larq_nobn.__file__).parent
# Each room may import from those in front of it, and nothing else of its own row. What
# is not named, private files and tables, is the base of all.
ROOMS = (
    ("math",),
    ("ops",),
    (
        "callbacks",
        "constraints",
        "layers",
        "losses",
        "models",
        "optimizers",
        "probes",
        "quantizers",
        "saving",
    ),
    ("networks",),
    ("weights",),
    ("zoo",),
    ("batch_norm", "deploy", "training"),
    ("demo", "tuning"),
    ("cli",),
    ("__main__",),
)
# The method is one room in many files.
METHOD = 2
RANKS = {name: rank for rank, names in enumerate(ROOMS) for name in names}


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _ancestors(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}


def _imported(code: str) -> set[str]:
    """The package's modules that some code names."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n in MODULES else node.module for n in names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        else:
            continue
        found.update(name for name in names if name in MODULES)
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """For each module the modules that it needs."""
    graph = {}
    for name, path in MODULES.items():
        own = _ancestors(name)
        direct = _imported(path.read_text()) - {name}
        around = set().union(*map(_ancestors, direct)) - own
        graph[name] = direct | around
    return graph


def test_no_cycle_of_modules(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_arrows_point_one_way(graph):
    def room(module: str) -> str:
        return module.removeprefix("larq_nobn").lstrip(".").split(".")[0]

    wrong = []
    for name, needed in graph.items():
        for other in needed:
            own, theirs = room(name), room(other)
            mine, their = RANKS.get(own, -1), RANKS.get(theirs, -1)
            # The package's own `__init__` is the face of the method.
            if "" in (own, theirs) or own == theirs:
                continue
            if their > mine or (their == mine and mine not in (METHOD, -1)):
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_hidden_imports_are_found():
    code = "import larq_nobn\ndef f():\n    from larq_nobn import zoo\n"
    assert _imported(code) == {"larq_nobn", "larq_nobn.zoo"}
    assert _imported("larq_nobn.zoo.create_model()") == {"larq_nobn.zoo"}
    assert _imported("from larq_nobn.zoo import table") == {"larq_nobn.zoo.table"}
