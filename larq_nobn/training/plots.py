"""Pictures of a training."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from larq_nobn._figures import COLOURS, new_figure, save_figure


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


def draw_curve(histories: Mapping[str, Mapping[str, list[dict]]], path: Path) -> None:
    """Draw a run's curve to a PNG.

    Args:
        histories: For each run's name its `history.json`.
        path: The PNG.
    """
    figure = new_figure(7, 4)
    plot_history(figure.add_subplot(), histories)
    save_figure(figure, path)
