"""A trial, as leaderboard and picture show it."""

from dataclasses import dataclass
from typing import Any

from larq_nobn.training.recipe import Recipe

# Their effect is shown by the clipping factor and the epochs.
_SWITCHES = ("clipping", "step1_share")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial in the leaderboard.

    Attributes:
        trial: Its number, from 0.
        values: What was searched, by name; `None` where it had no effect.
        recipe: What was trained.
        val_top1: Accuracy on the held-out images in percent; `None` if it diverged.
        seconds: How long it trained.
    """

    trial: int
    values: dict[str, Any]
    recipe: Recipe
    val_top1: float | None = None
    seconds: float | None = None

    @property
    def score(self) -> float:
        """What to sort by."""
        return -1.0 if self.val_top1 is None else self.val_top1

    def text(self) -> str:
        """What was searched, in a line, with the epochs of both steps."""
        cells = {**self.cells(), "epochs": self.epochs}
        return ", ".join(f"{name} {text}" for name, text in cells.items() if text)

    def cells(self) -> dict[str, str]:
        """What was searched, for reading; its two switches stand in the others."""
        cells = {k: _short(v) for k, v in self.values.items() if k not in _SWITCHES}
        if "clipping" in self.values and not self.recipe.clip_factor:
            cells["clip_factor"] = "off"
        return cells

    @property
    def epochs(self) -> str:
        """Epochs of step 1 and of step 2."""
        return f"{self.recipe.step1_epochs}+{self.recipe.epochs}"


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
