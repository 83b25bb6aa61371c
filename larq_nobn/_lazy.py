"""Names of packages that are imported at first use."""

import importlib
from collections.abc import Callable, Mapping


def lazy(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """Make a package's `__getattr__`.

    Args:
        package: Its `__name__`.
        modules: For each name the module that has it, as seen from the package; where
            both are the same, the name is the module.

    Returns:
        The function, which imports what it is asked for.
    """

    def getattr_(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        return module if modules[name] == name else getattr(module, name)

    return getattr_
