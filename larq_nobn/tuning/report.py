"""What a search leaves: the leaderboard, a picture, and the best trial as a recipe."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from larq_nobn._files import write_atomically
from larq_nobn.training.recipe import Recipe
from larq_nobn.tuning.plots import draw_search
from larq_nobn.tuning.row import Row
from larq_nobn.tuning.space import SearchSpace


def write_report(
    folder: Path,
    leaderboard: Sequence[Row],
    space: SearchSpace,
    recipe: Recipe,
    held_out: int,
) -> None:
    """Write everything that a search leaves, each file atomically.

    Args:
        folder: Where to.
        leaderboard: The trials so far, the best one first.
        space: What is searched.
        recipe: What the trials have in common.
        held_out: Number of images that the trials are measured on.
    """
    table = _csv(leaderboard, list(space.varied))
    write_atomically(folder / "leaderboard.csv", table.encode())
    text = _markdown(leaderboard, recipe, held_out)
    write_atomically(folder / "leaderboard.md", text.encode())
    if leaderboard[0].val_top1 is None:
        return
    best = _recipe_file(leaderboard, recipe, held_out)
    write_atomically(folder / "best_recipe.py", best.encode())
    draw_search(leaderboard, space, folder / "search.png")


def _csv(leaderboard: Sequence[Row], names: list[str]) -> str:
    table = io.StringIO()
    first = ("rank", "trial", "val_top1", "step1_epochs", "step2_epochs", "seconds")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*first, *names])
    for rank, row in enumerate(leaderboard, start=1):
        recipe = row.recipe
        cells = (row.val_top1, recipe.step1_epochs, recipe.epochs, row.seconds)
        writer.writerow([rank, row.trial, *cells, *map(row.values.get, names)])
    return table.getvalue()


def _markdown(leaderboard: Sequence[Row], recipe: Recipe, held_out: int) -> str:
    names = list(leaderboard[0].cells() | leaderboard[-1].cells())
    heads = ["rank", "trial", "top-1 (%)", "epochs", *names]
    lines = [
        f"# {recipe.model} on {recipe.dataset}: {len(leaderboard)} trials",
        "",
        f"Top-1 on {held_out} held-out training images, by the last epoch's weights.",
        "Epochs are those of step 1 (real weights) and of step 2 (binary weights).",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
    ]
    for rank, row in enumerate(leaderboard, start=1):
        top1 = "diverged" if row.val_top1 is None else f"{row.val_top1:.2f}"
        values = row.cells()
        cells = [str(rank), str(row.trial), top1, row.epochs]
        cells += [values.get(name, "") for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _recipe_file(leaderboard: Sequence[Row], recipe: Recipe, held_out: int) -> str:
    best = leaderboard[0]
    # The search's limit only kept the search short.
    found = best.recipe.replace(name=f"{recipe.name}_tuned", limit=None)
    settings = {f.name: getattr(found, f.name) for f in dataclasses.fields(Recipe)}
    lines = [
        f"    {field.name}={_literal(settings[field.name])},\n"
        for field in dataclasses.fields(Recipe)
        if settings[field.name] != field.default
    ]
    images = "all" if recipe.limit is None else f"{recipe.limit:,}"
    return (
        f'"""The best of {len(leaderboard)} trials of {recipe.model} on '
        f"{recipe.dataset}.\n\n"
        f"Found by larq-nobn tune on {images} training images, a fifth held out:\n"
        f"{best.val_top1:.2f} % on the {held_out:,} held-out ones.\n"
        "Command: larq-nobn train best_recipe.py --out DIR\n"
        '"""\n\n'
        "from larq_nobn.training import Recipe\n\n"
        f"RECIPE = Recipe(\n{''.join(lines)})\n"
    )


def _literal(value: Any) -> str:
    """Python as this project writes it."""
    return json.dumps(value) if isinstance(value, str) else repr(value)
