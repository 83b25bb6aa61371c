"""The engine: both steps of a recipe, with checkpoints, history and a result."""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._files import out_path
from larq_nobn.layers import LearnableBias, RPReLU, RSign
from larq_nobn.networks import build
from larq_nobn.optimizers import (
    AdaptiveGradientClipping,
    CoupledWeightDecay,
    FusedAdam,
)
from larq_nobn.probes import signal_propagation
from larq_nobn.training import data
from larq_nobn.training.checkpoint import Checkpoint, load_latest
from larq_nobn.training.distribution import (
    is_chief,
    make_strategy,
    shard,
    watch_workers,
)
from larq_nobn.training.folder import History, RunFolder
from larq_nobn.training.progress import Progress
from larq_nobn.training.recipe import Recipe
from larq_nobn.training.streamed import broken_pictures_named
from larq_nobn.training.trainer import Teacher, Trainer, load_teacher
from larq_nobn.weights import load
from larq_nobn.weights.transfer import assign_checked, named_weights, weights_sha256

STEPS = ("step1", "step2")


def train(
    recipe: Recipe,
    out: str | Path,
    data_dir: str | None = None,
    resume: bool = False,
    verbose: bool = True,
    distribute: str | None = None,
    trace: bool = False,
    images: data.Images | None = None,
    checkpoint_minutes: float = 10.0,
) -> dict[str, Any]:
    """Run a recipe: step 1 with real weights, step 2 from its best ones, binary.

    Leaves in `out`: `result.json`, `model.keras` (the network of step 2 with softmax),
    `history.json` and `.csv`, `curve.png`, `tensorboard/`, `checkpoints/`.

    Args:
        recipe: What to train.
        out: Folder of the run.
        data_dir: tensorflow-datasets folder.
        resume: Go on from the last intact checkpoint in `out`.
        verbose: Whether to show a progress bar.
        distribute: `None`, `"mirrored"` (all devices of this machine) or
            `"multiworker"` (the machines that `TF_CONFIG` names, which share `out`).
        trace: Whether to record, once an epoch, how much was clipped in each layer and
            the activations' variance behind each block, to `traces.json` and
            TensorBoard.
        images: What to train and test on in place of the recipe's data set.
        checkpoint_minutes: Write a checkpoint every so many minutes, besides the one
            after each epoch. Several machines write the latter only.

    Returns:
        The content of `result.json`.

    Raises:
        UserError: If the folder holds another run, the data or a setting is wrong, or
            the training diverged.
        OSError: If the folder cannot be written; the last checkpoint stays.
    """
    if not checkpoint_minutes >= 0:
        raise UserError(
            "`checkpoint_minutes` must be 0 or more",
            got=checkpoint_minutes,
            fix="10 is the default, 0 saves after each batch",
        )
    strategy = make_strategy(distribute, recipe.batch_size)
    with RunFolder(out_path(out), recipe, resume, is_chief(strategy)) as folder:
        if resume and (result := folder.result()):
            return result
        recipe = folder.recipe
        if images is None:
            with folder.released_on_error():
                images = data.load_images(
                    recipe.dataset, data_dir, recipe.limit, recipe.data_settings
                )
        recipe = folder.describe(images.row)
        with watch_workers(strategy), broken_pictures_named(images):
            run = _Run(recipe, folder, images, strategy, verbose, trace)
            if distribute != "multiworker":
                run.checkpoint_seconds = 60 * checkpoint_minutes
            return run.run()


def make_optimizer(
    recipe: Recipe, model: tf.keras.Model, step: str, track_clipping: bool = False
) -> tf.keras.optimizers.Optimizer:
    """The reference's optimizer: clip, then L2 (in step 1), then Adam or another.

    Args:
        recipe: Holds the optimizer's name, learning rate, λ of clipping and L2.
        model: The network; its layer `"classifier"` is not clipped.
        step: `"step1"` or `"step2"`.
        track_clipping: Whether to count what is clipped.

    Returns:
        A Keras optimizer.
    """
    optimizer = _OPTIMIZERS[recipe.optimizer](recipe.learning_rate)
    if step == "step1" and recipe.weight_decay:
        optimizer = CoupledWeightDecay(
            optimizer, recipe.weight_decay, decayed_variables(model)
        )
    if recipe.clip_factor:
        optimizer = AdaptiveGradientClipping(
            optimizer,
            recipe.clip_factor,
            exclude=[model.get_layer("classifier")],
            track_clipping=track_clipping,
        )
    return optimizer


_OPTIMIZERS = {
    "adam": FusedAdam,
    "rmsprop": tf.keras.optimizers.RMSprop,
    "sgd": lambda rate: tf.keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
}


def decayed_variables(model: tf.keras.Model) -> list[tf.Variable]:
    """What the reference decays: all that PyTorch stores with four axes.

    These are kernels and gains of convolutions and the learnable biases; not the
    slopes, batch norms and classifier.

    Args:
        model: A network of the zoo.

    Returns:
        Its decayed variables.
    """
    variables: list[tf.Variable] = []
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.Conv2D):
            variables.append(layer.kernel)
            if hasattr(layer, "gain"):
                variables.append(layer.gain)
        elif isinstance(layer, (LearnableBias, RSign)):
            variables.append(layer.bias)
        elif isinstance(layer, RPReLU):
            variables += [layer.bias_in, layer.bias_out]
    return variables


@dataclasses.dataclass
class _State:
    """Where a run stands. `step`, `epoch` and `batch` count what is done."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    batch_seconds: float = 0.0
    seconds: float = 0.0
    history: dict[str, list[dict[str, float]]] = dataclasses.field(
        default_factory=lambda: {step: [] for step in STEPS}
    )
    best_top1: float = -1.0
    traces: dict[str, list[dict[str, Any]]] = dataclasses.field(
        default_factory=lambda: {step: [] for step in STEPS}
    )


def _check_state(meta: dict[str, Any]) -> _State:
    """The state that a checkpoint describes.

    Raises:
        TypeError: If its entries are others.
        ValueError: If it contradicts itself.
    """
    state = _State(**meta)
    done = [len(state.history[step]) for step in STEPS]
    if state.step not in range(len(STEPS)) or state.epoch != done[state.step]:
        raise ValueError(f"{state.epoch} epochs of step {state.step} and {done} in all")
    return state


def build_trainer(
    recipe: Recipe, step: str, teacher: Teacher | None = None, trace: bool = False
) -> Trainer:
    """Build and compile the network of one step, the first from the recipe's weights.

    Args:
        recipe: The recipe.
        step: `"step1"` or `"step2"`.
        teacher: Function from images to the teacher's logits.
        trace: Whether the optimizer counts what it clips.

    Returns:
        The compiled network, its optimizer built.
    """
    tf.keras.utils.set_random_seed(recipe.seed)
    network = recipe.network_of(step)
    model = build(network, classifier_activation=None)
    if recipe.weights is not None and step == recipe.first_step:
        load(model, recipe.weights, network, include_top=True)
    model = Trainer(
        model,
        teacher=teacher,
        teacher_weight=recipe.teacher_weight,
        ema=recipe.ema,
        flip_test=recipe.flip_test,
    )
    model.compile(
        make_optimizer(recipe, model, step, trace),
        tf.keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[tf.keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    # Built now, these are traced once, and a checkpoint can be restored into them.
    model.optimizer.build(model.trainable_variables)
    model.compiled_loss.build(model.outputs[0])
    model.compiled_metrics.build(model.outputs[0], model.outputs[0])
    return model


def publishable(recipe: Recipe, weights: dict[str, np.ndarray]) -> tf.keras.Model:
    """The final network, with softmax on top.

    Args:
        recipe: The recipe.
        weights: Its trained weights by name.

    Returns:
        The model that a run saves.
    """
    model = build(recipe.network)
    assign_checked(named_weights(model), weights, "The trained weights")
    return model


def finish(
    folder: RunFolder,
    recipe: Recipe,
    history: History,
    weights: dict[str, np.ndarray],
    images: int,
    top1: float | None = None,
    used: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Save the trained network, and say how it was trained.

    Args:
        folder: The run's folder.
        recipe: What was trained.
        history: Rows of both steps; not each needs a `test_top1`.
        weights: The trained weights by name.
        images: How many were trained on, in all epochs together.
        top1: Accuracy of the saved network in percent, if not step 2's last one.
        used: Versions besides those of this process.

    Returns:
        The content of `result.json`.
    """
    folder.save_model(publishable(recipe, weights))
    tested = {
        step: [row["test_top1"] for row in history[step] if "test_top1" in row]
        or [None]
        for step in STEPS
    }
    last = {step: tested[step][-1] for step in STEPS}
    if top1 is not None:
        last["step2"] = top1
    seconds = sum(row["seconds"] for step in STEPS for row in history[step])
    return folder.finish(
        {
            "recipe": recipe.name,
            "model": recipe.model_arguments(),
            "dataset": recipe.dataset,
            "top1": last,
            "best_top1": {step: max(tested[step]) for step in STEPS},
            "epochs": {step: len(history[step]) for step in STEPS},
            "seed": recipe.seed,
            "seconds": seconds,
            "images_per_second": images / seconds,
            "weights_sha256": weights_sha256(weights),
            "settings": dataclasses.asdict(recipe),
        },
        history,
        used,
    )


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        images: data.Images,
        strategy: tf.distribute.Strategy,
        verbose: bool,
        trace: bool,
    ):
        self.recipe = recipe
        self.folder = folder
        self.images = images
        self.strategy = strategy
        self.trace = trace
        self.checkpoint_seconds = math.inf
        self.state = _State()
        self.best: dict[str, np.ndarray] = {}
        self.metrics: dict[str, np.ndarray] = {}
        self.test = shard(images.test_batches(4 * recipe.batch_size))
        self.teacher = None
        if recipe.teacher is not None:
            with strategy.scope():
                self.teacher = load_teacher(recipe.teacher, images.row)
        self.steps_per_epoch = images.train_size // recipe.batch_size
        self.progress = Progress(
            self._images_in(self._epochs_before(len(STEPS))), recipe.batch_size, verbose
        )

    def run(self) -> dict[str, Any]:
        """Do what is left to do of both steps."""
        checkpoint = load_latest(self.folder.checkpoints, _check_state)
        # Another summation order would flip signs, and resumed runs would differ.
        tf.config.experimental.enable_op_determinism()
        policy = tf.keras.mixed_precision.global_policy()
        tf.keras.mixed_precision.set_global_policy(self.recipe.precision)
        try:
            if checkpoint:
                self.state = _check_state(checkpoint.meta)
                self.progress.start_at(self._images_done())
            model = None
            for index in range(self.state.step, len(STEPS)):
                if not self.recipe.epochs_of(STEPS[index]):
                    self.state.step = index + 1
                    continue
                model = self._step(index, checkpoint)
                checkpoint = None
            return self._finish(model)
        finally:
            tf.keras.mixed_precision.set_global_policy(policy)
            self.progress.close()

    def _step(self, index: int, checkpoint: Checkpoint | None) -> tf.keras.Model:
        """Train one step to its end, from a checkpoint or from its start."""
        recipe, state, step = self.recipe, self.state, STEPS[index]
        with self.strategy.scope():
            model = build_trainer(recipe, step, self.teacher, self.trace)
        if checkpoint:
            self._restore(model, checkpoint)
        elif step == "step2" and state.history["step1"]:
            assign_checked(named_weights(model), self.best, "The weights of step 1")
            model.start_averages()
        while state.epoch < recipe.epochs_of(step):
            self._epoch(model, index)
        if index + 1 == len(STEPS):
            with model.averaged():
                self._remember(model)
        if index + 1 < len(STEPS):
            state.step, state.epoch, state.best_top1 = index + 1, 0, -1.0
        return model

    def _epoch(self, model: tf.keras.Model, index: int) -> None:
        recipe, state, step = self.recipe, self.state, STEPS[index]
        epoch, start = state.epoch, state.batch
        started = time.monotonic() - state.batch_seconds
        rate = recipe.learning_rate_at(epoch, step)
        model.optimizer.learning_rate = rate
        # Every epoch of the run has its own order and augmentation.
        batches = self.images.train_batches(
            recipe.batch_size,
            recipe.seed,
            self._epochs_before(index) + epoch,
            recipe.padding,
            recipe.mixup,
            recipe.cutmix,
            start,
        )
        epochs = recipe.epochs_of(step)
        where = f"{step}, epoch {epoch + 1} of {epochs}"
        self.progress.where = f"step {index + 1}/2 epoch {epoch + 1}/{epochs}"
        fit = model.fit(
            shard(batches),
            callbacks=[
                self.progress,
                _StopOnNaN(where, start, self.folder.checkpoints),
                _SaveWithinEpoch(self, index, started),
            ],
            verbose=0,
        )
        with model.averaged():
            test = model.evaluate(self.test, verbose=0, return_dict=True)
            accuracy = test["accuracy"]
            if accuracy > state.best_top1:
                state.best_top1 = accuracy
                self._remember(model)
        seconds = time.monotonic() - started
        state.epoch += 1
        state.batch, state.batch_seconds = 0, 0.0
        state.seconds += seconds
        state.history[step].append(
            {
                "epoch": epoch + 1,
                "learning_rate": rate,
                "loss": fit.history["loss"][0],
                "top1": 100 * fit.history["accuracy"][0],
                "test_loss": test["loss"],
                "test_top1": 100 * accuracy,
                "seconds": seconds,
            }
        )
        if self.trace:
            self._record_traces(model, step)
        # First: a run that is killed between the two does its last epoch again, and
        # does not lack it in the history.
        self.folder.write_history(state.history, state.traces)
        self.save(model, index)

    def _remember(self, model: tf.keras.Model) -> None:
        self.best = {name: v.numpy() for name, v in named_weights(model).items()}

    def _record_traces(self, model: "Trainer", step: str) -> None:
        """Clipping per layer and variance per block, after an epoch."""
        traces: dict[str, Any] = {"epoch": self.state.epoch}
        if self.recipe.clip_factor:
            traces["clipped"] = model.optimizer.clipping_report(reset=True)
        images, _ = next(iter(self.images.test_batches(64)))
        traces["blocks"] = signal_propagation(model, images)
        self.state.traces[step].append(traces)

    def save(self, model: tf.keras.Model, index: int) -> None:
        """Write a checkpoint."""
        arrays = {f"model/{k}": v.numpy() for k, v in named_weights(model).items()}
        arrays |= {f"best/{name}": value for name, value in self.best.items()}
        variables = self._optimizer_variables(model)
        arrays |= {f"optimizer/{name}": v.numpy() for name, v in variables.items()}
        if self.state.batch:
            variables = _metric_variables(model)
            arrays |= {f"metrics/{name}": v.numpy() for name, v in variables.items()}
        epochs = self._epochs_before(index) + self.state.epoch
        number = epochs * self.steps_per_epoch + self.state.batch
        meta = dataclasses.asdict(self.state)
        self.folder.save_checkpoint(number, Checkpoint(arrays, meta))

    @staticmethod
    def _optimizer_variables(model: "Trainer") -> dict[str, tf.Variable]:
        """The optimizer's state and the moving averages."""
        variables = [*model.optimizer.variables, *model.averages]
        return {str(i): variable for i, variable in enumerate(variables)}

    def _restore(self, model: tf.keras.Model, checkpoint: Checkpoint) -> None:
        def part(prefix: str) -> dict[str, np.ndarray]:
            return {
                name.removeprefix(prefix): array
                for name, array in checkpoint.arrays.items()
                if name.startswith(prefix)
            }

        self.best = part("best/")
        assign_checked(named_weights(model), part("model/"), "The checkpoint")
        variables = self._optimizer_variables(model)
        assign_checked(variables, part("optimizer/"), "The checkpoint's optimizer")
        self.metrics = part("metrics/")

    def _finish(self, model: tf.keras.Model) -> dict[str, Any]:
        top1 = None
        if self.recipe.precision.startswith("mixed"):
            # Save in float32, whatever the training's precision.
            tf.keras.mixed_precision.set_global_policy("float32")
            top1 = self._top1_in_float32()
        return finish(
            self.folder,
            self.recipe,
            self.state.history,
            self.best,
            self._images_in(self._epochs_before(len(STEPS))),
            top1,
        )

    def _top1_in_float32(self) -> float:
        """What the saved network gives, in Keras's default type."""
        with self.strategy.scope():
            model = build_trainer(self.recipe, "step2")
        assign_checked(named_weights(model), self.best, "The trained weights")
        return 100 * model.evaluate(self.test, verbose=0, return_dict=True)["accuracy"]

    def _images_done(self) -> int:
        epochs = self._epochs_before(self.state.step) + self.state.epoch
        return self._images_in(epochs) + self.state.batch * self.recipe.batch_size

    def _images_in(self, epochs: int) -> int:
        return epochs * self.steps_per_epoch * self.recipe.batch_size

    def _epochs_before(self, index: int) -> int:
        """Epochs of the steps before one."""
        return sum(self.recipe.epochs_of(step) for step in STEPS[:index])


class DivergedError(UserError):
    """The loss of a training is no longer finite."""


class _StopOnNaN(tf.keras.callbacks.Callback):
    """Stop at the first batch whose mean loss is not finite."""

    def __init__(self, where: str, start: int, checkpoints: Path):
        super().__init__()
        self.where = where
        self.start = start
        self.checkpoints = checkpoints

    def on_train_batch_end(self, batch, logs=None):
        """Check the running loss."""
        if not math.isfinite(logs["loss"]):
            raise DivergedError(
                "The loss must stay finite",
                got=f"{logs['loss']} in {self.where}, batch {self.start + batch + 1}. "
                f"The last good checkpoint is kept in {self.checkpoints}",
                fix="start again with a smaller learning_rate or clip_factor",
            )


class _SaveWithinEpoch(tf.keras.callbacks.Callback):
    """Write checkpoints between batches, and go on with the metrics of a restored one.

    Args:
        run: The run.
        index: Number of its step.
        started: When the epoch started.
    """

    def __init__(self, run: _Run, index: int, started: float):
        super().__init__()
        self.run = run
        self.index = index
        self.started = started
        self.start = run.state.batch
        self.saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Restore the metrics, which Keras has just reset."""
        if self.run.metrics:
            variables = _metric_variables(self.model)
            assign_checked(variables, self.run.metrics, "The checkpoint's metrics")
            self.run.metrics = {}

    def on_train_batch_end(self, batch, logs=None):
        """Write a checkpoint if it is time."""
        state, done = self.run.state, self.start + batch + 1
        now = time.monotonic()
        is_due = now - self.saved >= self.run.checkpoint_seconds
        if is_due and done < self.run.steps_per_epoch:
            state.batch, state.batch_seconds = done, now - self.started
            self.run.save(self.model, self.index)
            self.saved = time.monotonic()


def _metric_variables(model: tf.keras.Model) -> dict[str, tf.Variable]:
    variables = [v for metric in model.metrics for v in metric.variables]
    return {str(i): variable for i, variable in enumerate(variables)}
