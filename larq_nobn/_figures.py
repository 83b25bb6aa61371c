"""Figures that are written, not shown."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from larq_nobn._files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def new_figure(
    width: float, height: float, layout: str | None = "constrained"
) -> "Figure":
    """A figure that needs no display, whatever the user's Matplotlib backend.

    Args:
        width: In inches.
        height: In inches.
        layout: Matplotlib's layout engine; `None` to place everything by hand.

    Returns:
        The figure.
    """
    # Imported here, so that `training` can be imported without Matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())
