"""What travels with the package: published weights and recipes."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
# A wheel has copies inside the package (see setup.py). A checkout, and an editable
# install of it, have the folders themselves beside it.
_COPIES = _PACKAGE / "shipped"


def shipped(name: str) -> Path:
    """The folder of that name at the top of the repository, `"zoo"` or `"training"`."""
    return (_COPIES if _COPIES.is_dir() else _PACKAGE.parent) / name
