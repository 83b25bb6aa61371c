"""A report as a picture."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from larq_nobn._files import write_atomically
from larq_nobn.deploy.inspection import Report, Row

# Colour-blind safe (Okabe and Ito).
_COLOURS = {
    "1 bit": "#0072B2",
    "int8": "#009E73",
    "float16": "#E69F00",
    "float32": "#D55E00",
}
_MULTIPLIER = "#CC79A7"


def plot(report: Report, path: str | os.PathLike, title: str = "") -> None:
    """Draw where a file's bytes and arithmetic are, layer by layer.

    Args:
        report: From `larq_nobn.deploy.report`.
        path: The PNG to write.
        title: What the file is.

    Raises:
        OSError: If it cannot be written.

    Example:
        >>> plot(report(content), "model.png", title="ReActNet-18")
    """
    layers = [row for row in report.rows if row.binary_macs or row.float_macs]
    figure = Figure(figsize=(11, 2 + 0.23 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(
        1, 3, sharey=True, width_ratios=(4, 4, 3), squeeze=True
    )
    figure.suptitle(title or "exported model", fontweight="bold")
    _draw_bytes(left, layers, report)
    _draw_macs(middle, layers, report)
    _draw_multiplications(right, layers, report)
    left.set_yticks(range(len(layers)), [row.layer for row in layers], fontsize=7)
    left.set_ylim(len(layers) - 0.4, -0.6)
    handles = {}
    for axes in (left, middle, right):
        axes.grid(axis="x", alpha=0.25)
        axes.tick_params(axis="x", labelsize=8)
        handles.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=6, fontsize=8
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(Path(path), buffer.getvalue())


def _draw_bytes(axes, layers: Sequence[Row], report: Report) -> None:
    for stored, colour in _COLOURS.items():
        chosen = [i for i, row in enumerate(layers) if row.stored == stored]
        if chosen:
            width = [layers[i].nbytes / 1024 for i in chosen]
            axes.barh(chosen, width, color=colour, label=f"stored as {stored}")
    for i, row in enumerate(layers):
        text = f" {_kib(row.nbytes)} of {_kib(row.float_nbytes)}"
        axes.text(row.nbytes / 1024, i, text, va="center", fontsize=6, color="0.35")
    axes.set_xlim(0, 1.3 * max((row.nbytes for row in layers), default=1) / 1024)
    smaller = report.float_nbytes / report.nbytes
    axes.set_title(
        f"file {report.nbytes / 1e6:.2f} MB; in float32 "
        f"{report.float_nbytes / 1e6:.1f} MB ({smaller:.1f} times)",
        fontsize=9,
    )
    axes.set_xlabel("weights in KiB, of those in float32", fontsize=8)


def _draw_macs(axes, layers: Sequence[Row], report: Report) -> None:
    scale, unit = _scale(max(row.binary_macs, row.float_macs) for row in layers)
    for field, stored, label in (
        ("binary_macs", "1 bit", "1-bit multiply-accumulates"),
        ("float_macs", "float32", "float multiply-accumulates"),
    ):
        chosen = [i for i, row in enumerate(layers) if getattr(row, field)]
        width = [getattr(layers[i], field) / scale for i in chosen]
        axes.barh(chosen, width, color=_COLOURS[stored], alpha=0.6, label=label)
    axes.set_title(
        f"{_amount(report.total('binary_macs'))} 1-bit, "
        f"{_amount(report.total('float_macs'))} float",
        fontsize=9,
    )
    axes.set_xlabel(f"multiply-accumulates per image, in {unit}", fontsize=8)


def _draw_multiplications(axes, layers: Sequence[Row], report: Report) -> None:
    scale, unit = _scale(row.multiplications for row in layers)
    width = [row.multiplications / scale for row in layers]
    label = "float multiplier behind a convolution"
    axes.barh(range(len(layers)), width, color=_MULTIPLIER, label=label)
    here = sum(row.multiplications for row in layers)
    elsewhere = report.total("multiplications") - here
    axes.set_title(
        f"{_amount(here)}, and {_amount(elsewhere)} in other layers", fontsize=9
    )
    axes.set_xlabel(f"other float multiplications, in {unit}", fontsize=8)


def _scale(numbers: Iterable[int]) -> tuple[float, str]:
    """What to divide an axis's numbers by, and its name."""
    is_large = max(numbers, default=0) >= 1e6
    return (1e6, "millions") if is_large else (1e3, "thousands")


def _amount(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number / 1e3:,.1f} k"


def _kib(nbytes: int) -> str:
    return f"{nbytes / 1024:,.1f}" if nbytes < 10240 else f"{nbytes / 1024:,.0f}"
