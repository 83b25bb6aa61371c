"""A search over recipes: every trial is a training, and the best one a recipe."""

import contextlib
import dataclasses
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from sklearn.exceptions import ConvergenceWarning

from larq_nobn._errors import UserError, check_number, one_of
from larq_nobn._files import out_path, write_json
from larq_nobn.training import data
from larq_nobn.training.engine import DivergedError, train
from larq_nobn.training.folder import HeldFolder
from larq_nobn.training.recipe import Recipe
from larq_nobn.training.streamed import StreamedImages
from larq_nobn.tuning.hypermodel import FatalUserError, keras_tuner
from larq_nobn.tuning.report import write_report
from larq_nobn.tuning.row import Row
from larq_nobn.tuning.space import SearchSpace, recipe_settings

ALGORITHMS = ("random", "hyperband", "bayesian")

# Share of the training images held out to compare trials; test images stay unseen.
_HELD_OUT = 0.2
_OBJECTIVE = keras_tuner.Objective("val_top1", "max")


def search(
    recipe: Recipe,
    out: str | Path,
    *,
    space: SearchSpace | None = None,
    algorithm: str = "bayesian",
    trials: int | None = None,
    epochs: int = 8,
    data_dir: str | None = None,
    resume: bool = False,
    verbose: bool = True,
) -> list[Row]:
    """Search for the best settings of a recipe.

    A trial is a training by the engine of `larq-nobn train`, in a folder of its own
    under `out/trials`, measured on a fifth of the training images, which are held out.
    Leaves in `out`: `leaderboard.csv` and `.md`, `search.png`, and `best_recipe.py` for
    `larq-nobn train`, all up to date after each trial.

    Interrupted at any moment, it goes on with `resume`: the tuner is asked again from
    its start and gets the results that are there, so that it proposes the same as
    before, and the trial that was running goes on from its last epoch. On a CPU it
    ends with the same leaderboard as without interruption.

    Args:
        recipe: What every trial has in common. Its `limit` is for the search only;
            `epochs` and `step1_epochs` are the search's.
        out: Folder of the search.
        space: What is searched; by default the usual ranges for the recipe's model.
        algorithm: `"random"`, `"hyperband"` (arXiv 1603.06560) or `"bayesian"`.
        trials: At most so many; by default 20, or as many as Hyperband has.
        epochs: Epochs of a trial, both steps together; of the longest one in Hyperband,
            whose every round trains anew, so that the learning rate decays to the end.
        data_dir: tensorflow-datasets folder.
        resume: Go on with the search in `out`.
        verbose: Whether to show trials and a progress bar.

    Returns:
        The leaderboard, the best trial first.

    Raises:
        UserError: If the folder holds another search or something else, the data or a
            setting is wrong, or every trial diverged.
        OSError: If the folder cannot be written.
    """
    one_of("algorithm", algorithm, ALGORITHMS)
    _check_counts(trials, epochs)
    space = space or SearchSpace(recipe.model, recipe.norm)
    if (space.model, space.norm) != (recipe.model, recipe.norm):
        raise UserError(
            "`space` must be for the recipe's network",
            got=f"a space for {space.model}, {space.norm} and a recipe for "
            f"{recipe.model}, {recipe.norm}",
            fix="give both the same",
        )
    if trials is None and algorithm != "hyperband":
        trials = 20
    settings = {
        **dataclasses.asdict(recipe),
        "algorithm": algorithm,
        "trials": trials,
        "epochs": epochs,
        **{f"range of {name}": text for name, text in space.describe().items()},
    }
    with _SearchFolder(out_path(out), settings, resume) as folder:
        with folder.released_on_error():
            images = _hold_out(recipe, data_dir)
        recipe = recipe.described_by(images.row)
        study = _Study(recipe, folder.path, space, images, epochs, verbose)
        tuner = _Tuner(
            study,
            oracle=_oracle(algorithm, trials, epochs, recipe.seed),
            hypermodel=_Draw(space),
            directory=str(folder.path),
            project_name="keras_tuner",
            # keras-tuner's files are not written atomically, so do not read them.
            overwrite=True,
        )
        try:
            with _quiet():
                tuner.search()
        except FatalUserError as error:
            raise error.__cause__ from None
    if not study.best:
        raise UserError(
            "A trial must keep a finite loss",
            got=f"{len(study.rows)} trials, all of which diverged",
            fix="search smaller learning rates, in another --out",
        )
    return study.leaderboard()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what TensorFlow and scikit-learn say of many short trainings."""
    level = tf.get_logger().level
    tf.get_logger().setLevel("ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            yield
    finally:
        tf.get_logger().setLevel(level)


def _check_counts(trials: int | None, epochs: int) -> None:
    for name, value in {"trials": trials, "epochs": epochs}.items():
        if value is not None:
            check_number(name, value, "20 trials of 8 epochs are a start", kind=int)


class _SearchFolder(HeldFolder):
    kind = "search"

    def _check_settings(self) -> None:
        file = self.path / "settings.json"
        found = sorted(p.name for p in self.path.iterdir() if p.name != ".lock")
        other = "a keras-tuner project" if "oracle.json" in found else "something else"
        if file.exists():
            other = "a training"
            found = [] if '"algorithm"' in file.read_text(errors="replace") else found
        if found:
            raise UserError(
                "A search needs a folder of its own",
                got=f"{self.path}, which holds {other} ({', '.join(found[:4])})",
                fix="choose another --out",
            )
        super()._check_settings()


def _oracle(algorithm: str, trials: int | None, epochs: int, seed: int):
    """keras-tuner's algorithm, the same in every run."""
    oracles = keras_tuner.oracles
    seed += 1  # 0 is none for keras-tuner.
    if algorithm == "random":
        return oracles.RandomSearchOracle(_OBJECTIVE, trials, seed=seed)
    if algorithm == "bayesian":
        # The default, three random trials per hyperparameter, is too expensive.
        initial = max(3, trials // 3)
        return oracles.BayesianOptimizationOracle(
            _OBJECTIVE, trials, initial, seed=seed
        )
    oracle = oracles.HyperbandOracle(_OBJECTIVE, max_epochs=epochs, seed=seed)
    oracle.max_trials = trials
    return oracle


def _hold_out(recipe: Recipe, data_dir: str | None) -> data.Images | StreamedImages:
    """The training images, a fifth of them in place of the test images."""
    settings = recipe.data_settings
    images = data.load_images(recipe.dataset, data_dir, recipe.limit, settings)
    if isinstance(images, StreamedImages) and not images.pictures:
        raise UserError(
            "A search holds out a fifth of the training images",
            got=f"dataset={recipe.dataset!r}",
            fix="search on a smaller one, and train the recipe that it finds with "
            "--set dataset=imagenet",
        )
    return images.held_out(_HELD_OUT, [recipe.seed, images.train_size])


class _Draw(keras_tuner.HyperModel):
    """Tells the tuner the space; the engine builds the networks."""

    def __init__(self, space: SearchSpace):
        self._space = space
        super().__init__()

    def build(self, hp) -> None:
        self._space.draw(hp)


class _Tuner(keras_tuner.Tuner):
    """Any of keras-tuner's algorithms, with trainings by the engine."""

    def __init__(self, study: "_Study", **kwargs: Any):
        self._study = study
        super().__init__(**kwargs)
        self.oracle.verbose = 0

    def run_trial(self, trial) -> dict[str, float]:
        try:
            return self._study.run(trial.trial_id, trial.hyperparameters)
        except (UserError, OSError) as error:
            # keras-tuner treats every other exception as a failed trial.
            raise FatalUserError(str(error)) from error

    def on_trial_end(self, trial) -> None:
        if trial.status != "COMPLETED":
            raise RuntimeError(trial.message)
        super().on_trial_end(trial)


class _Study:
    """The trials of a search."""

    def __init__(
        self,
        recipe: Recipe,
        path: Path,
        space: SearchSpace,
        images: data.Images | StreamedImages,
        epochs: int,
        verbose: bool,
    ):
        self._recipe = recipe
        self._path = path
        self._space = space
        self._images = images
        self._epochs = epochs
        self._verbose = verbose
        self.rows: list[Row] = []
        self.best: Row | None = None

    def run(self, trial_id: str, hp) -> dict[str, float]:
        """Train a trial to its end, or take the result that is there."""
        epochs = hp.values.get("tuner/epochs", self._epochs)
        values = self._space.draw(hp)
        recipe = self._recipe.replace(
            name=f"trial_{int(trial_id):04d}", **recipe_settings(values, epochs)
        )
        folder = self._path / "trials" / f"{int(trial_id):04d}"
        varied = {name: values.get(name) for name in self._space.varied}
        row = Row(trial=int(trial_id), values=varied, recipe=recipe)
        self._print(f"trial {trial_id}: {row.text()}")
        for other in self.rows:
            # Values that depend on a switched-off option make no difference.
            if other.recipe.replace(name=recipe.name) == recipe:
                self._print(f"  as trial {other.trial}")
                return self._score(other)
        try:
            result = self._train(recipe, folder)
        except DivergedError:
            self._add(row)
            self._print("  diverged")
            return self._score(row)
        row = dataclasses.replace(
            row, val_top1=result["top1"]["step2"], seconds=result["seconds"]
        )
        self._add(row)
        self._print(f"  {row.val_top1:.2f} %; best so far {self.best.val_top1:.2f} %")
        return self._score(row)

    def _score(self, row: Row) -> dict[str, float]:
        """What the tuner gets to know."""
        if row.val_top1 is None:
            # No better than chance: a poor trial, but not a failed one.
            return {"val_top1": 100 / self._images.row.num_classes}
        return {"val_top1": row.val_top1}

    def leaderboard(self) -> list[Row]:
        """The trials, the best one first, those that diverged last."""
        return sorted(self.rows, key=lambda row: (-row.score, row.trial))

    def _train(self, recipe: Recipe, folder: Path) -> dict[str, Any]:
        diverged = folder / "diverged.json"
        if diverged.exists():
            raise DivergedError(diverged.read_text(errors="replace"))
        tf.keras.backend.clear_session()
        try:
            result = train(
                recipe, folder, resume=True, verbose=self._verbose, images=self._images
            )
        except DivergedError as error:
            write_json(diverged, str(error))
            raise
        finally:
            # Only needed to continue a training, and large.
            if diverged.exists() or (folder / "result.json").exists():
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return result

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        leaderboard = self.leaderboard()
        if leaderboard[0].val_top1 is not None:
            self.best = leaderboard[0]
        held_out = self._images.test_size
        write_report(self._path, leaderboard, self._space, self._recipe, held_out)

    def _print(self, text: str) -> None:
        if self._verbose:
            print(text, file=sys.stderr, flush=True)
