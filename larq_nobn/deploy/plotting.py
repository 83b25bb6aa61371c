"""A report as a picture."""

import io
import os
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from larq_nobn._files import write_atomically
from larq_nobn.deploy.inspection import Report

# Colour-blind safe (Okabe and Ito).
_COLOURS = {
    "1 bit": "#0072B2",
    "int8": "#009E73",
    "float16": "#E69F00",
    "float32": "#D55E00",
}
_FAINT = "0.88"


def plot(report: Report, path: str | os.PathLike, title: str = "") -> None:
    """Draw where a file's bytes and multiply-accumulates are, layer by layer.

    Args:
        report: From `larq_nobn.deploy.report`.
        path: The PNG to write.
        title: What the file is.

    Raises:
        OSError: If it cannot be written.

    Example:
        >>> plot(report(content), "model.png", title="ReActNet-18")
    """
    layers = _weighty_layers(report)
    figure = Figure(figsize=(11, 1.6 + 0.22 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title or "exported model", fontweight="bold")
    _draw_bytes(left, layers, report)
    _draw_macs(right, layers, report)
    left.set_yticks(range(len(layers)), [row.layer for row in layers], fontsize=7)
    left.set_ylim(len(layers) - 0.4, -0.6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(Path(path), buffer.getvalue())


def _weighty_layers(report: Report) -> list:
    return [row for row in report.rows if row.binary_macs or row.float_macs]


def _draw_bytes(axes, layers: list, report: Report) -> None:
    position = np.arange(len(layers))
    as_float = [row.float_nbytes / 1024 for row in layers]
    axes.barh(position, as_float, color=_FAINT, label="if it were float32")
    for stored, colour in _COLOURS.items():
        chosen = [i for i, row in enumerate(layers) if row.stored == stored]
        if chosen:
            width = [layers[i].nbytes / 1024 for i in chosen]
            axes.barh(chosen, width, color=colour, label=stored, height=0.55)
    axes.set_xscale("log")
    axes.set_xlabel("weights (KiB, logarithmic)")
    smaller = report.float_nbytes / report.nbytes
    axes.set_title(
        f"{report.nbytes / 1e6:.2f} MB file, {report.float_nbytes / 1e6:.1f} MB in "
        f"float32 ({smaller:.0f} times)",
        fontsize=9,
    )
    axes.legend(loc="lower right", fontsize=7, title="stored as", title_fontsize=7)
    axes.grid(axis="x", alpha=0.25)


def _draw_macs(axes, layers: list, report: Report) -> None:
    for field, label, colour in (
        ("binary_macs", "1-bit MACs", _COLOURS["1 bit"]),
        ("float_macs", "float MACs", _COLOURS["float32"]),
        ("multiplications", "float multiplier", "#CC79A7"),
    ):
        chosen = [i for i, row in enumerate(layers) if getattr(row, field)]
        width = [getattr(layers[i], field) / 1e6 for i in chosen]
        height = 0.2 if field == "multiplications" else 0.55
        axes.barh(chosen, width, color=colour, label=label, height=height)
    axes.set_xscale("log")
    axes.set_xlabel("per image (millions, logarithmic)")
    axes.set_title(
        f"{report.total('binary_macs') / 1e6:.0f} M 1-bit and "
        f"{report.total('float_macs') / 1e6:.1f} M float MACs, "
        f"{report.total('multiplications') / 1e6:.2f} M other float multiplications",
        fontsize=9,
    )
    axes.legend(loc="lower right", fontsize=7)
    axes.grid(axis="x", alpha=0.25)
