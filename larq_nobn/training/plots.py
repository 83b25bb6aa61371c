"""Pictures of a training."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from larq_nobn._files import write_atomically

# Colour-blind safe (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def plot_history(
    axes, histories: Mapping[str, Mapping[str, list[dict]]], lowest: float = 0.0
) -> None:
    """Draw test accuracy over the epochs of both steps.

    Args:
        axes: Matplotlib axes.
        histories: For each run's name its `history.json`.
        lowest: Accuracies below, in percent, are cut off.
    """
    for (name, history), colour in zip(histories.items(), COLOURS, strict=False):
        rows = [row for step in history.values() for row in step]
        train = [row["top1"] for row in rows]
        # An accelerator without TensorFlow tests at the end of a step only.
        test = np.array([row.get("test_top1", np.nan) for row in rows])
        epochs = np.arange(1, len(rows) + 1)
        tested = np.isfinite(test)
        style = "-" if tested.all() else "o"
        label = f"{name}: {test[-1]:.2f} %"
        axes.plot(epochs[tested], test[tested], style, c=colour, label=label, lw=2)
        axes.plot(epochs, train, color=colour, alpha=0.35, linewidth=1)
        boundary = len(history["step1"]) + 0.5
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, lowest), min(high, 100.5))
    if boundary > 1:
        axes.axvline(boundary, color="0.6", linestyle=":", linewidth=1)
        style = {"color": "0.4", "fontsize": 8, "va": "bottom"}
        place = axes.get_xaxis_transform()
        axes.text(boundary, 1, "real weights  ", ha="right", transform=place, **style)
        axes.text(boundary, 1, "  binary weights", ha="left", transform=place, **style)
    axes.set_xlabel("epoch")
    axes.set_ylabel("top-1 (%)\nbold: test, faint: training")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)


def new_figure(
    width: float, height: float, layout: str | None = "constrained"
) -> Figure:
    """A figure that needs no display, whatever the user's Matplotlib backend.

    Args:
        width: In inches.
        height: In inches.
        layout: Matplotlib's layout engine; `None` to place everything by hand.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def draw_curve(histories: Mapping[str, Mapping[str, list[dict]]], path: Path) -> None:
    """Draw a run's curve to a PNG.

    Args:
        histories: For each run's name its `history.json`.
        path: The PNG.
    """
    figure = new_figure(7, 4)
    plot_history(figure.add_subplot(), histories)
    save_figure(figure, path)
