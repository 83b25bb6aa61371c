"""A network as C99 for microcontrollers: write it, measure it, check it."""

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._files import out_path, write_atomically
from larq_nobn._tables import format_table
from larq_nobn.deploy.c.arena import plan
from larq_nobn.deploy.c.compiler import Program, cortex_m4_sizes, host_compiler
from larq_nobn.deploy.c.graph import Graph, read_graph
from larq_nobn.deploy.c.source import Preprocessing, Writer, generated
from larq_nobn.deploy.conversion import convert
from larq_nobn.deploy.runtime import Runner
from larq_nobn.weights.card import Card

_KEYWORDS = """auto break case char const continue default do double else enum extern
float for goto if inline int long register restrict return short signed sizeof static
struct switch typedef union unsigned void volatile while asm bool catch class delete
explicit export false friend mutable namespace new operator private protected public
template this throw true try typename using virtual""".split()
_LARGEST_FILE = 1 << 30
_SEEDS = range(1, 9)


@dataclass(frozen=True)
class CLayer:
    """A step of the network in C.

    Attributes:
        layer: What it belongs to.
        kernel: The function of C.
        shape: Shape of its output.
        binary_macs: Multiply-accumulates of signs.
        float_macs: Multiply-accumulates of floats.
    """

    layer: str
    kernel: str
    shape: tuple[int, ...]
    binary_macs: int
    float_macs: int


@dataclass(frozen=True)
class CReport:
    """What `to_c` wrote; `str()` of it is text.

    Attributes:
        name: The network's name.
        files: The files' names.
        constant_bytes: Bytes of constants, in flash.
        code_bytes: Bytes of code on a Cortex-M4; `None` where no compiler is.
        arena_bytes: Bytes of working memory.
        layers: The steps.
        checked: Deviation of the test's outputs from Larq Compute Engine's, relative to
            the largest; `None` where no compiler is.
    """

    name: str
    files: tuple[str, ...]
    constant_bytes: int
    code_bytes: int | None
    arena_bytes: int
    layers: tuple[CLayer, ...]
    checked: float | None

    def total(self, field: str) -> int:
        """Sum a field of `CLayer`."""
        return sum(getattr(layer, field) for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        macs = {f: self.total(f) for f in ("binary_macs", "float_macs")}
        return {**asdict(self), **macs}

    def __str__(self) -> str:
        """Return a table of the steps that multiply, and the totals."""
        header = ("layer", "kernel", "output", "1-bit MACs", "float MACs")
        rows = [
            (
                x.layer,
                x.kernel,
                "x".join(map(str, x.shape)),
                f"{x.binary_macs:,}" if x.binary_macs else "",
                f"{x.float_macs:,}" if x.float_macs else "",
            )
            for x in self.layers
            if x.binary_macs or x.float_macs
        ]
        return "\n".join([format_table(header, rows), "", self.summary()])

    def summary(self) -> str:
        """Return the totals as text."""
        code = "unknown without a compiler (pip install ziglang)"
        if self.code_bytes is not None:
            code = f"{self.code_bytes:,} bytes on a Cortex-M4"
        checked = "not run here (pip install ziglang)"
        if self.checked is not None:
            checked = f"deviates by {self.checked:.1e} of the largest output"
        return (
            f"{', '.join(self.files)}\n"
            f"flash: {self.constant_bytes:,} bytes of constants; code: {code}\n"
            f"RAM: {self.arena_bytes:,} bytes of arena\n"
            f"{self.total('binary_macs') / 1e6:.1f} M 1-bit MACs, "
            f"{self.total('float_macs') / 1e6:.1f} M float MACs per image\n"
            f"{self.name}_test.c: {checked}"
        )


def to_c(
    model: tf.keras.Model | bytes | str | os.PathLike,
    directory: str | os.PathLike,
    *,
    name: str = "network",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    force: bool = False,
) -> CReport:
    """Write a network as C99 that needs no library, for microcontrollers.

    Args:
        model: A Keras model that `convert` takes, the bytes of a `.tflite` file for
            Larq Compute Engine, or the path of one.
        directory: The folder for NAME.c, NAME.h and NAME_test.c; it is made, and must
            be empty otherwise.
        name: The network's name, a C identifier.
        mean: Means by channel of pixels in [0, 1], for a function that takes pixels; by
            default those of the model's card, if it has one.
        std: The standard deviations.
        force: Whether to write into a folder that holds files, and over them.

    Returns:
        Sizes and operations.

    Raises:
        UserError: If the model cannot be exported, or the folder holds files; nothing
            is written then.

    Example:
        >>> print(to_c(zoo.load("reactnet18_free_cifar10_width16"), "firmware/net"))
    """
    card = getattr(model, "card", None)
    settings = {"name": name, "mean": mean, "std": std, "force": force}
    check_target(directory, name, force)
    return write_c(_content(model), directory, card=card, **settings)


def write_c(
    content: bytes,
    directory: str | os.PathLike,
    *,
    name: str,
    card: Card | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    force: bool = False,
    verify: Callable[[Path], None] | None = None,
) -> CReport:
    """Write a file for Larq Compute Engine as C; see `to_c`.

    Args:
        content: The `.tflite` file.
        directory: The folder.
        name: The network's name.
        card: What is known of the weights.
        mean: Means of pixels.
        std: Their standard deviations.
        force: Whether to write into a folder that holds files.
        verify: Looks at a folder with the files before they are written, and raises an
            error to prevent it.

    Returns:
        Sizes and operations.

    Raises:
        UserError: If it cannot be exported, or the folder holds files.
    """
    folder = check_target(directory, name, force)
    graph = read_graph(content)
    preprocessing = _preprocessing(graph, card, mean, std)
    planned = plan(graph, with_input=preprocessing is not None)
    title, notes = "A binary network", ["Weights: nothing is known of them."]
    if card is not None:
        title, notes = _plain(card.folder_name), _card_notes(card)
    writer = Writer(name, graph, planned, preprocessing, title, notes)
    files = {f"{name}.c": writer.source()}
    notes += [
        f"Flash: {writer.constant_bytes} bytes of constants, and the code.",
        f"RAM: {planned.nbytes} bytes of arena, and the stack.",
        "Maps are HWC: the channels of a pixel lie side by side.",
    ]
    files[f"{name}.h"] = writer.header()
    runner = Runner(content, indirect=True)
    with tempfile.TemporaryDirectory() as made:
        first = Path(made)
        _write(first, files)
        files[f"{name}_test.c"], checked = _test(writer, runner, first)
        if verify is not None:
            verify(first)
        sizes = cortex_m4_sizes(first, name)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, files)
    return CReport(
        name=name,
        files=tuple(files),
        constant_bytes=writer.constant_bytes if sizes is None else sizes[1],
        code_bytes=None if sizes is None else sizes[0],
        arena_bytes=planned.nbytes,
        layers=tuple(
            CLayer(s.layer, s.kernel, s.output.shape, s.binary_macs, s.float_macs)
            for s in planned.steps
            if s.kernel != "alias"
        ),
        checked=checked,
    )


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        write_atomically(folder / name, text.encode())


def check_target(directory: str | os.PathLike, name: str, force: bool) -> Path:
    """Check name and folder, before the work.

    Args:
        directory: The folder.
        name: The network's name.
        force: Whether it may hold files.

    Returns:
        The folder.

    Raises:
        UserError: If the name is no identifier, or the folder holds files.
    """
    _check_name(name)
    return _folder(directory, name, force)


def _check_name(name: str) -> None:
    good = isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", name)
    if not good or name in _KEYWORDS:
        raise UserError(
            "`name` must be a C identifier of up to 31 characters, and no keyword",
            got=f"name={name!r}",
            fix="letters, digits and underscores, a letter first, such as my_network",
        )


def _folder(directory: str | os.PathLike, name: str, force: bool) -> Path:
    folder = out_path(directory)
    if folder.exists() and not folder.is_dir():
        raise UserError(
            "`directory` must be a folder", got=f"the file {folder}", fix="name another"
        )
    if folder.is_dir() and not force and any(folder.iterdir()):
        raise UserError(
            "The folder must be empty, so that nothing is overwritten",
            got=f"files in {folder}",
            fix=f"name another, or allow it (force=True, --force) to write {name}.c, "
            f"{name}.h and {name}_test.c",
        )
    return folder


def _content(model) -> bytes:
    if isinstance(model, tf.keras.Model):
        return convert(model)
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    if not isinstance(model, str | os.PathLike):
        raise UserError(
            "`model` must be a Keras model, or a TFLite file's bytes or path",
            got=type(model).__name__,
            fix="to_c(model, directory)",
        )
    return read_tflite(Path(model))


def read_tflite(path: Path) -> bytes:
    """Read a file.

    Raises:
        UserError: If there is none, or it is larger than any network.
    """
    if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
        raise UserError(
            "`model` must be a TFLite file of at most 1 GiB",
            got=f"{path}, which "
            f"{'is larger or no file' if path.exists() else 'does not exist'}",
            fix="write one with larq-nobn export MODEL --out FILE.tflite",
        )
    return path.read_bytes()


def _preprocessing(graph: Graph, card: Card | None, mean, std) -> Preprocessing | None:
    if mean is None and std is None:
        if card is None:
            return None
        mean, std = card.mean, card.std
    channels = graph.input.shape[-1]
    for values in (mean, std):
        good = values is not None and len(values) == channels
        if not good or not np.isfinite(np.float32(values)).all():
            raise UserError(
                f"`mean` and `std` must be given together, {channels} numbers each",
                got=f"mean={mean}, std={std}",
                fix="one for each channel of the input",
            )
    if np.min(std) <= 0:
        raise UserError(
            "`std` must be positive", got=f"std={std}", fix="those of pixels in [0, 1]"
        )
    return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)))


def _card_notes(card: Card) -> list[str]:
    metrics = ", ".join(f"{k} {v:.2f} %" for k, v in card.metrics.items())
    notes = [
        f"Weights: trained on {card.dataset}; {metrics or 'accuracy unknown'}.",
        f"Licence of the weights: {card.license or 'none given'}.",
    ]
    return [_plain(note) for note in notes]


def _plain(text: str) -> str:
    """A text that cannot end a comment of C, or its line."""
    text = re.sub(r"[^ -~]", "_", text)
    return text.replace("*/", "*_").replace("/*", "/_").replace("??", "?_")


def _test(writer: Writer, runner: Runner, folder: Path) -> tuple[str, float | None]:
    """The content of NAME_test.c, and its deviation where a compiler is.

    Rounding flips a sign now and then. The test's input is one where it does not.
    """
    name, shape = writer.name, writer.graph.input.shape
    program = None if host_compiler() is None else Program(folder, name)
    deviation = None
    for seed in _SEEDS:
        floats, pixels = generated(seed, shape)
        images, expected_u8 = floats, None
        expected = runner.run(np.ascontiguousarray(floats))[0]
        if writer.preprocessing is not None:
            processed = writer.preprocessing(pixels)
            expected_u8 = runner.run(np.ascontiguousarray(processed))[0]
            images = np.concatenate([floats, processed])
        wanted = [x.reshape(-1) for x in (expected, expected_u8) if x is not None]
        text = writer.test(seed, expected, expected_u8)
        if program is None:
            break
        outputs = program.run(images)
        deviation = max(
            float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(np.float32).tiny))
            for a, b in zip(outputs, wanted, strict=True)
        )
        if deviation <= 1e-5:
            break
    return text, deviation
