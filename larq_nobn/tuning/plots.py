"""The picture of a search."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from larq_nobn._figures import COLOURS, new_figure, save_figure
from larq_nobn.tuning.row import Row
from larq_nobn.tuning.space import PARAMETERS, SearchSpace

_TITLES = {
    "alpha": "α",
    "clip_factor": "λ (AGC)",
    "learning_rate": "learning rate",
    "weight_decay": "L2",
    "step1_share": "share of step 1",
}
_OFF = "off"


def draw_search(leaderboard: Sequence[Row], space: SearchSpace, path: Path) -> None:
    """Draw a search to a PNG: parallel coordinates, and λ, α and the rate by result.

    Args:
        leaderboard: The trials, the best one first.
        space: What was searched.
        path: The PNG.
    """
    rows = [row for row in leaderboard if row.val_top1 is not None]
    top1 = [row.val_top1 for row in rows]
    colour = colormaps["viridis"]
    norm = Normalize(min(top1), max(top1) if max(top1) > min(top1) else min(top1) + 1)
    # Clipping switched off is shown on the clipping factor's axis.
    names = [name for name in space.varied if name != "clipping"]
    shades = [colour(norm(value)) for value in top1]
    small = [n for n in ("clip_factor", "alpha", "learning_rate") if n in names]
    figure = new_figure(max(9, 1.5 * len(names) + 2), 7.5 if small else 4)
    grid = figure.add_gridspec(2 if small else 1, max(len(small), 1))
    _parallel(figure.add_subplot(grid[0, :]), rows, names, shades)
    for column, name in enumerate(small):
        axes = figure.add_subplot(grid[1, column])
        _scatter(axes, rows, name, shades)
        axes.set_ylabel("top-1, held-out images (%)" if column == 0 else "")
    save_figure(figure, path)


def _value(row: Row, name: str) -> Any:
    """What a trial has on an axis; `None` where it has no effect."""
    if name == "clip_factor" and not row.recipe.clip_factor:
        return _OFF
    if name == "step1_share":
        # Of whole epochs, as it was run.
        one, two = map(row.recipe.epochs_of, ("step1", "step2"))
        return one / (one + two)
    return row.values.get(name)


class _Axis:
    """Places the values of one hyperparameter from 0 to 1, those without one below.

    Numbers stand on their scale, choices at equal distances.
    """

    def __init__(self, rows: Sequence[Row], name: str):
        values = {_value(row, name) for row in rows}
        self._scale = math.log if PARAMETERS[name].log else float
        self._numbers = sorted(v for v in values if isinstance(v, float))
        self._choices = sorted(values - {None, _OFF} - set(self._numbers))
        ends = [*self._numbers[:1], *self._numbers[-1:], *self._choices]
        self.ticks = {self.place(value): _text(value) for value in ends}
        for value in values & {None, _OFF}:
            self.ticks[self.place(value)] = "–" if value is None else value

    def place(self, value: Any) -> float:
        """From 0 to 1, or below."""
        if value is None or value == _OFF:
            return -0.18
        if not isinstance(value, float):
            return self._choices.index(value) / max(len(self._choices) - 1, 1)
        low, high = self._scale(self._numbers[0]), self._scale(self._numbers[-1])
        return (self._scale(value) - low) / (high - low) if high > low else 0.5


def _text(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _parallel(axes, rows: Sequence[Row], names: list[str], shades: list) -> None:
    """A line for each trial over one vertical axis for each hyperparameter."""
    scales = {name: _Axis(rows, name) for name in names}
    places = np.arange(len(names) + 1)
    top1 = np.array([row.val_top1 for row in rows])
    span = np.ptp(top1) or 1.0
    for i in reversed(range(len(rows))):
        heights = [scales[n].place(_value(rows[i], n)) for n in names]
        heights.append((top1[i] - top1.min()) / span)
        best = i == 0
        style = {"color": COLOURS[1], "lw": 2.5} if best else {"color": shades[i]}
        axes.plot(places, heights, marker="o", ms=4, **{"lw": 1, **style})
    for place, name in enumerate(names):
        axes.axvline(place, color="0.7", lw=0.8, zorder=0)
        for height, text in scales[name].ticks.items():
            label = axes.text(place - 0.05, height, text, ha="right", va="center")
            label.set(fontsize=8, bbox={"fc": "white", "alpha": 0.8, "lw": 0, "pad": 1})
    axes.axvline(len(names), color="0.7", lw=0.8, zorder=0)
    for height, value in ((0, top1.min()), (1, top1.max())):
        axes.text(len(names) + 0.05, height, f"{value:.1f}", va="center", fontsize=8)
    axes.set_xticks(places, [_TITLES.get(n, n) for n in names] + ["top-1 (%)"])
    axes.set_yticks([])
    axes.set_xlim(-0.6, len(names) + 0.4)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{len(rows)} trials; the best one in orange", fontsize=10)


def _scatter(axes, rows: Sequence[Row], name: str, shades: list) -> None:
    """Accuracy over one hyperparameter."""
    values = [_value(row, name) for row in rows]
    numbers = [v for v in values if isinstance(v, float)]
    # "Off" stands left of the lowest value.
    left = min(numbers, default=1.0) / 2
    x = [v if isinstance(v, float) else left for v in values]
    top1 = [row.val_top1 for row in rows]
    axes.scatter(x, top1, c=shades, s=30)
    axes.scatter(x[:1], top1[:1], facecolors="none", edgecolors=COLOURS[1], s=90, lw=2)
    if PARAMETERS[name].log:
        axes.set_xscale("log")
        narrow = max(x) < 20 * min(x)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if _OFF in values:
        axes.axvline(left * 1.4, color="0.7", lw=0.8, ls=":")
        axes.text(left, axes.get_ylim()[1], _OFF, ha="center", va="top", fontsize=8)
    axes.set_xlabel(_TITLES.get(name, name))
    axes.grid(alpha=0.25)
