"""The engine: both steps of a recipe, with checkpoints, history and a result."""

import dataclasses
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from larq_nobn import zoo
from larq_nobn._errors import UserError
from larq_nobn.layers import LearnableBias, RPReLU, RSign
from larq_nobn.optimizers import AdaptiveGradientClipping, CoupledWeightDecay
from larq_nobn.training import data
from larq_nobn.training.checkpoint import (
    Checkpoint,
    load_latest,
    save_checkpoint,
    weights_sha256,
)
from larq_nobn.training.folder import RunFolder
from larq_nobn.training.progress import Progress
from larq_nobn.training.recipe import Recipe
from larq_nobn.zoo.weights import assign_checked, named_weights

STEPS = ("step1", "step2")


def train(
    recipe: Recipe,
    out: str | Path,
    data_dir: str | None = None,
    resume: bool = False,
    verbose: bool = True,
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

    Returns:
        The content of `result.json`.

    Raises:
        UserError: If the folder holds another run, the data or a setting is wrong, or
            the training diverged.
        OSError: If the folder cannot be written; the last checkpoint stays.
    """
    with RunFolder(Path(out), recipe, resume) as folder:
        if resume and (result := folder.result()):
            return result
        images = data.load_images(recipe.dataset, data_dir, recipe.limit)
        return _Run(recipe, folder, images, verbose).run()


def make_optimizer(recipe: Recipe, model: tf.keras.Model, step: str):
    """The reference's optimizer: clip, then L2 (in step 1), then Adam.

    Args:
        recipe: Holds learning rate, λ of clipping and L2.
        model: The network; its layer `"classifier"` is not clipped.
        step: `"step1"` or `"step2"`.

    Returns:
        A Keras optimizer.
    """
    optimizer = tf.keras.optimizers.Adam(recipe.learning_rate)
    if step == "step1" and recipe.weight_decay:
        optimizer = CoupledWeightDecay(
            optimizer, recipe.weight_decay, decayed_variables(model)
        )
    if recipe.clip_factor:
        optimizer = AdaptiveGradientClipping(
            optimizer, recipe.clip_factor, exclude=[model.get_layer("classifier")]
        )
    return optimizer


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
    """Where a run stands. `step` and `epoch` count what is done."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    history: dict[str, list[dict[str, float]]] = dataclasses.field(
        default_factory=lambda: {step: [] for step in STEPS}
    )
    best_top1: float = -1.0


class _Run:
    def __init__(
        self, recipe: Recipe, folder: RunFolder, images: data.Images, verbose: bool
    ):
        self.recipe = recipe
        self.folder = folder
        self.images = images
        self.state = _State()
        self.best: dict[str, np.ndarray] = {}
        self.test = self._one_hot(data.test_batches(images, 4 * recipe.batch_size))
        self.steps_per_epoch = len(images.train[0]) // recipe.batch_size
        per_epoch = self.steps_per_epoch * recipe.batch_size
        self.progress = Progress(
            2 * recipe.epochs * per_epoch, recipe.batch_size, verbose
        )

    def run(self) -> dict[str, Any]:
        """Do what is left to do of both steps."""
        checkpoint = load_latest(self.folder.checkpoints)
        policy = tf.keras.mixed_precision.global_policy()
        tf.keras.mixed_precision.set_global_policy(self.recipe.precision)
        try:
            if checkpoint:
                self.state = _State(**checkpoint.meta)
                self.progress.start_at(self._images_done())
            model = None
            for index in range(self.state.step, len(STEPS)):
                model = self._step(index, checkpoint)
                checkpoint = None
            return self._finish(model)
        finally:
            tf.keras.mixed_precision.set_global_policy(policy)
            self.progress.close()

    def _step(self, index: int, checkpoint: Checkpoint | None) -> tf.keras.Model:
        """Train one step to its end, from a checkpoint or from its start."""
        recipe, state, step = self.recipe, self.state, STEPS[index]
        tf.keras.utils.set_random_seed(recipe.seed)
        model = zoo.create_model(
            **recipe.model_arguments(binary_weights=step == "step2"),
            classifier_activation=None,
        )
        model.compile(
            make_optimizer(recipe, model, step),
            tf.keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=recipe.label_smoothing
            ),
            metrics=[tf.keras.metrics.CategoricalAccuracy(name="accuracy")],
        )
        model.optimizer.build(model.trainable_variables)
        if checkpoint:
            self._restore(model, checkpoint)
        elif step == "step2":
            assign_checked(named_weights(model), self.best, "The weights of step 1")
        while state.epoch < recipe.epochs:
            self._epoch(model, index)
        if index + 1 < len(STEPS):
            state.step, state.epoch, state.best_top1 = index + 1, 0, -1.0
        return model

    def _epoch(self, model: tf.keras.Model, index: int) -> None:
        recipe, state, step = self.recipe, self.state, STEPS[index]
        started = time.monotonic()
        epoch = state.epoch
        rate = recipe.learning_rate_at(epoch)
        model.optimizer.learning_rate = rate
        # Every epoch of the run has its own order and augmentation.
        batches = data.train_batches(
            self.images,
            recipe.batch_size,
            recipe.seed,
            index * recipe.epochs + epoch,
            recipe.padding,
        )
        where = f"{step}, epoch {epoch + 1} of {recipe.epochs}"
        self.progress.where = f"step {index + 1}/2 epoch {epoch + 1}/{recipe.epochs}"
        fit = model.fit(
            self._one_hot(batches),
            callbacks=[self.progress, _StopOnNaN(where, self.folder.checkpoints)],
            verbose=0,
        )
        loss, accuracy = model.evaluate(self.test, verbose=0)
        seconds = time.monotonic() - started
        state.epoch += 1
        state.seconds += seconds
        state.history[step].append(
            {
                "epoch": epoch + 1,
                "learning_rate": rate,
                "loss": fit.history["loss"][0],
                "top1": 100 * fit.history["accuracy"][0],
                "test_loss": loss,
                "test_top1": 100 * accuracy,
                "seconds": seconds,
            }
        )
        if accuracy > state.best_top1:
            state.best_top1 = accuracy
            self.best = {name: v.numpy() for name, v in named_weights(model).items()}
        self._save(model, index)

    def _save(self, model: tf.keras.Model, index: int) -> None:
        arrays = {f"model/{k}": v.numpy() for k, v in named_weights(model).items()}
        arrays |= {f"best/{name}": value for name, value in self.best.items()}
        variables = model.optimizer.variables
        arrays |= {f"optimizer/{i}": v.numpy() for i, v in enumerate(variables)}
        number = index * self.recipe.epochs + self.state.epoch
        meta = dataclasses.asdict(self.state)
        save_checkpoint(self.folder.checkpoints, number, Checkpoint(arrays, meta))
        self.folder.write_history(self.state.history)

    def _restore(self, model: tf.keras.Model, checkpoint: Checkpoint) -> None:
        def part(prefix: str) -> dict[str, np.ndarray]:
            return {
                name.removeprefix(prefix): array
                for name, array in checkpoint.arrays.items()
                if name.startswith(prefix)
            }

        self.best = part("best/")
        assign_checked(named_weights(model), part("model/"), "The checkpoint")
        variables = {str(i): v for i, v in enumerate(model.optimizer.variables)}
        assign_checked(variables, part("optimizer/"), "The checkpoint's optimizer")

    def _finish(self, model: tf.keras.Model) -> dict[str, Any]:
        recipe, history = self.recipe, self.state.history
        weights = {name: v.numpy() for name, v in named_weights(model).items()}
        arguments = recipe.model_arguments()
        published = zoo.create_model(**arguments)
        assign_checked(named_weights(published), weights, "The trained weights")
        self.folder.save_model(published)
        last = [history[step][-1] for step in STEPS]
        seconds = sum(row["seconds"] for step in STEPS for row in history[step])
        done = 2 * recipe.epochs * self.steps_per_epoch * recipe.batch_size
        return self.folder.finish(
            {
                "recipe": recipe.name,
                "model": arguments,
                "dataset": recipe.dataset,
                "top1": _by_step(row["test_top1"] for row in last),
                "best_top1": _by_step(
                    max(row["test_top1"] for row in history[step]) for step in STEPS
                ),
                "epochs": _by_step(len(history[step]) for step in STEPS),
                "seed": recipe.seed,
                "seconds": seconds,
                "images_per_second": done / seconds,
                "weights_sha256": weights_sha256(weights),
            },
            history,
        )

    def _one_hot(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        classes = self.images.source.num_classes
        return batches.map(lambda x, y: (x, tf.one_hot(y, classes)))

    def _images_done(self) -> int:
        epochs = self.state.step * self.recipe.epochs + self.state.epoch
        return epochs * self.steps_per_epoch * self.recipe.batch_size


def _by_step(values: Iterable) -> dict[str, Any]:
    return dict(zip(STEPS, values, strict=True))


class _StopOnNaN(tf.keras.callbacks.Callback):
    """Stop at the first batch whose mean loss is not finite."""

    def __init__(self, where: str, checkpoints: Path):
        super().__init__()
        self.where = where
        self.checkpoints = checkpoints

    def on_train_batch_end(self, batch, logs=None):
        """Check the running loss."""
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"The loss must stay finite. Received: {logs['loss']} in {self.where}, "
                f"batch {batch + 1}. The last good checkpoint is kept in "
                f"{self.checkpoints}. Fix: start again with a smaller learning_rate or "
                "clip_factor."
            )
