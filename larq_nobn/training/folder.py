"""The folder of a run: who may write it, and what it holds at the end."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from filelock import FileLock, Timeout

import larq_nobn
from larq_nobn._errors import UserError, first_line
from larq_nobn._files import (
    read_json,
    remove_temporaries,
    write_atomically,
    write_json,
)
from larq_nobn._larq import has_larq_zoo
from larq_nobn.datasets import Dataset, DataSettings
from larq_nobn.saving import save_model
from larq_nobn.training.checkpoint import Checkpoint, save_checkpoint
from larq_nobn.training.plots import draw_curve
from larq_nobn.training.recipe import Recipe, checked

# The files of a run's folder.
NAMES = {
    ".lock",
    "checkpoints",
    "curve.png",
    "history.csv",
    "history.json",
    "model.keras",
    "result.json",
    "settings.json",
    "tensorboard",
    "traces.json",
}
# The keys of a result that are read.
_RESULT = {"recipe", "top1", "images_per_second", "seconds"}
History = dict[str, list[dict[str, float]]]


class HeldFolder:
    """The folder of long work, held by one process at a time, that can go on.

    Args:
        path: The folder; made if missing.
        settings: What the work depends on, as JSON; written to `settings.json`.
        resume: Whether to go on with what is in it.
        chief: Whether this process writes it; the other workers of a distributed run
            only read.

    Attributes:
        kind: What happens in it, in a word.
        defaults: Settings of folders from before a setting existed.

    Raises:
        UserError: On entering, if another process or other work uses the folder.
        OSError: On entering, if it cannot be written.
    """

    kind = "run"
    defaults: Mapping[str, Any] = {}

    def __init__(
        self, path: Path, settings: dict[str, Any], resume: bool, chief: bool = True
    ):
        self.path = path
        self._settings = _as_json(settings)
        self._resume = resume
        self._chief = chief
        self._is_new = False
        self._lock = FileLock(path / ".lock", timeout=0)

    def __enter__(self):
        if not self._chief:
            return self
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise UserError(
                f"A {self.kind} needs a folder of its own",
                got=f"{self.path}, in which another process is training",
                fix="choose another --out, or wait",
            ) from error
        try:
            self._check_settings()
            for folder in (self.path, self.path / "checkpoints"):
                remove_temporaries(folder)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Leave a folder that was empty to other work if the user has to correct it."""
        try:
            yield
        except UserError:
            if self._is_new:
                (self.path / "settings.json").unlink(missing_ok=True)
            raise

    def _check_settings(self) -> None:
        file = self.path / "settings.json"
        if not file.exists():
            write_json(file, self._settings)
            self._is_new = True
            return
        if not self._resume:
            raise UserError(
                f"A {self.kind} needs a folder of its own",
                got=f"{self.path}, which holds one already",
                fix=f"choose another --out, or go on with that {self.kind} by --resume",
            )
        try:
            before = {**self.defaults, **read_json(file)}
        except ValueError as error:
            raise UserError(
                f"{file} must hold the settings of the {self.kind}",
                got=error,
                fix="start again in another folder",
            ) from error
        changed = [
            f"{key} was {before.get(key)!r}, is {self._settings.get(key)!r}"
            for key in sorted({**before, **self._settings})
            if before.get(key) != self._settings.get(key)
        ]
        if changed:
            raise UserError(
                f"A resumed {self.kind} must keep its settings",
                got="; ".join(changed),
                fix=f"give the settings that the {self.kind} was started with, or "
                "choose another --out",
            )


class RunFolder(HeldFolder):
    """A training's folder.

    Args:
        path: The folder; made if missing.
        recipe: The recipe that runs in it.
        resume: Whether to go on with what is in it.
        chief: As in `HeldFolder`.

    Raises:
        UserError: On entering, as for every `HeldFolder`.
        OSError: Likewise.
    """

    defaults = {f.name: f.default for f in dataclasses.fields(Recipe)}

    def __init__(self, path: Path, recipe: Recipe, resume: bool, chief: bool = True):
        super().__init__(path, dataclasses.asdict(recipe), resume, chief)
        self.checkpoints = path / "checkpoints"
        self.recipe = recipe

    def _check_settings(self) -> None:
        """Take what was measured in a resumed run from there."""
        file = self.path / "settings.json"
        if self._resume and file.exists():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                before = {**self.defaults, **read_json(file)}
                names = [field.name for field in dataclasses.fields(DataSettings)]
                open_ = [n for n in names if getattr(self.recipe, n) is None]
                self._take(self.recipe.replace(**{n: before[n] for n in open_}))
        super()._check_settings()

    def _take(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._settings = _as_json(dataclasses.asdict(recipe))

    def describe(self, row: Dataset) -> Recipe:
        """Keep what has been measured of the images.

        Returns:
            The recipe with it.
        """
        recipe = self.recipe.described_by(row)
        if recipe != self.recipe:
            self._take(recipe)
            if self._chief:
                write_json(self.path / "settings.json", self._settings)
        return recipe

    def result(self) -> dict[str, Any] | None:
        """The result, if the run is complete; a damaged one is said on stderr."""
        file = self.path / "result.json"
        try:
            result = read_json(file)
            if missing := _RESULT - set(result):
                raise ValueError(f"it has no {', '.join(sorted(missing))}")
        except FileNotFoundError:
            return None
        except ValueError as error:
            print(
                f"larq-nobn: {file} is damaged ({first_line(error):.200}); it is made "
                "again",
                file=sys.stderr,
            )
            return None
        return result

    def save_checkpoint(self, number: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; see `checkpoint.save_checkpoint`."""
        if self._chief:
            save_checkpoint(self.checkpoints, number, checkpoint)

    def write_history(self, history: History, traces: History, new: int = 1) -> None:
        """Write the metrics so far, as JSON, CSV and TensorBoard events.

        Args:
            history: Rows of both steps.
            traces: What was recorded besides, by step; may be empty.
            new: How many of the last epochs have no events yet.
        """
        if not self._chief:
            return
        write_json(self.path / "history.json", history)
        if any(traces.values()):
            write_json(self.path / "traces.json", traces)
        self._write_events(history, traces, new)
        table = io.StringIO()
        rows = [{"step": step, **row} for step in history for row in history[step]]
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path / "history.csv", table.getvalue().encode())

    def _write_events(self, history: History, traces: History, new: int) -> None:
        """Append the last epochs to TensorBoard's event files."""
        epochs = [(step, i) for step in history for i in range(len(history[step]))]
        for step in history:
            numbers = [i for name, i in epochs[-new:] if name == step]
            if not numbers:
                continue
            folder = str(self.path / "tensorboard" / step)
            with tf.summary.create_file_writer(folder).as_default():
                for i in numbers:
                    row = dict(history[step][i])
                    epoch = row.pop("epoch")
                    if traces[step]:
                        row |= _scalars(traces[step][i - len(history[step])])
                    for name, content in row.items():
                        tf.summary.scalar(name, content, epoch)

    def save_model(self, model: tf.keras.Model) -> None:
        """Save the final network as `model.keras`."""
        if self._chief:
            save_model(model, self.path / "model.keras")

    def finish(
        self,
        result: dict[str, Any],
        history: History,
        used: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Draw the curve and write `result.json`, which marks the run as complete.

        Args:
            result: What there is to say, without versions.
            history: Rows of both steps.
            used: Versions besides those of this process.

        Returns:
            The content of `result.json`.
        """
        if not self._chief:
            return result
        draw_curve({self.recipe.name: history}, self.path / "curve.png")
        result = {
            **result,
            "versions": {**versions(), **(used or {})},
            "git_revision": git_revision(),
        }
        write_json(self.path / "result.json", result)
        return result


def data_settings(folder: Path) -> DataSettings | None:
    """What the run in a folder says of its images; `None` if there is no run.

    Args:
        folder: The folder.
    """
    file = folder / "settings.json"
    try:
        settings = read_json(file)
    except (OSError, ValueError):
        return None
    if not {"name", "dataset", "model"} <= set(settings):
        return None
    known = {field.name for field in dataclasses.fields(DataSettings)}
    found = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name in known
    }
    try:
        return checked(DataSettings(**found))
    except UserError as error:
        raise UserError(
            f"{file} must hold the settings of a run",
            got=error,
            fix="move the model to another folder, or train it again",
        ) from error


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """As they will be read: tuples are lists."""
    return json.loads(json.dumps(settings))


def _scalars(traces: dict[str, Any]) -> list[tuple[str, float]]:
    """Name the numbers of one epoch's traces for TensorBoard."""
    clipped = traces.get("clipped", {}).items()
    scalars = [(f"clipped/{name}", row["fraction"]) for name, row in clipped]
    for row in traces.get("blocks", []):
        scalars.append((f"variance/{row['layer']}", row["variance"]))
    return scalars


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ["keras", "larq", "numpy", "tensorflow-datasets"]
    if has_larq_zoo():
        packages.insert(2, "larq-zoo")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {
        "larq_nobn": larq_nobn.__version__,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
        **found,
    }


def git_revision() -> str | None:
    """Commit of the source tree, `None` outside one."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
