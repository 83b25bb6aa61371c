"""Reads a page of the guide, and runs its code: `python tests/guide.py PAGE`."""

import functools
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?:^<!-- *(?P<comment>[^\n]*?) *-->\n)?"
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: As the fence says it.
        code: What is in it.
        line: Number of the code's first line.
        comment: The HTML comment in the line before the fence.
    """

    language: str
    code: str
    line: int
    comment: str

    @property
    def parsed_only(self) -> bool:
        return self.comment.startswith("parsed only: ")

    @property
    def saved_as(self) -> str | None:
        prefix = "saved as: "
        has = self.comment.startswith(prefix)
        return self.comment.removeprefix(prefix) if has else None

    def commands(self) -> Iterator[list[str]]:
        """The arguments of each `larq-nobn` in a shell block."""
        for line in self.code.replace("\\\n", " ").splitlines():
            if "larq-nobn" not in line:
                continue
            words = shlex.split(line, comments=True)
            if "larq-nobn" in words:
                yield words[words.index("larq-nobn") + 1 :]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            match["language"],
            match["code"],
            text.count("\n", 0, match.start("code")) + 1,
            match["comment"] or "",
        )
        for match in _FENCE.finditer(text)
    ]


def runs_eagerly(page: Path) -> bool:
    """Whether tests need not trace a page's functions: see `docs_test`."""
    return page.read_text().startswith("<!-- tests: run functions eagerly -->\n")


def run(page: Path) -> None:
    """Run a page's Python and commands in order, in the current folder."""
    # As in a clone.
    for folder in ("training", "zoo"):
        (Path(folder)).symlink_to(ROOT / folder)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and block.parsed_only:
            compile(block.code, str(page), "exec")
        elif block.language == "python":
            if block.saved_as:
                Path(block.saved_as).write_text(block.code)
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(page), "exec"), namespace)
        elif block.language == "shell" and not block.parsed_only:
            for arguments in block.commands():
                _run_command(arguments)


def _run_command(arguments: list[str]) -> None:
    # In this process, to spare TensorFlow's start.
    import tensorflow as tf

    from larq_nobn import cli

    tf.keras.utils.set_random_seed(0)
    status = cli.main(arguments)
    if status:
        raise RuntimeError(f"larq-nobn {shlex.join(arguments)} ended with {status}")


@functools.cache
def _stand_in():
    """24 digits of scikit-learn in the form of CIFAR-10."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[:24, :, :, None] * (255 / 16)
    images = np.broadcast_to(images, (24, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    images, labels = images.astype(np.uint8), digits.target[:24, None].astype(np.uint8)
    return (images[:16], labels[:16]), (images[16:], labels[16:])


def _main() -> None:
    warnings.simplefilter("error")
    for category in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    # What the page on fine-tuning announces.
    warnings.filterwarnings("default", "The classifier for num_classes=")

    import larq_nobn  # noqa: F401  # isort: skip  (first: it selects Keras 2)
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    tf.keras.datasets.cifar10.load_data = _stand_in
    page = Path(sys.argv[1])
    if runs_eagerly(page):
        tf.config.run_functions_eagerly(True)
        warnings.filterwarnings("ignore", "Even though the `tf.config", UserWarning)
    run(page)


if __name__ == "__main__":
    _main()
