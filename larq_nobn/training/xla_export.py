"""The train step as one XLA program, for accelerators without a TensorFlow build.

A whole epoch (batches, augmentation, forward, backward, clipping, optimizer) is
exported as HLO text; `xla_runner.py`, a script that needs jax and NumPy only, runs it
on any PJRT device. What comes back goes on in the Keras model.
"""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn import ops
from larq_nobn._errors import UserError
from larq_nobn._files import write_atomically, write_json
from larq_nobn.training import data
from larq_nobn.training.recipe import Recipe
from larq_nobn.training.trainer import Trainer

_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{\}, \w+-alias\)")


def state_variables(model: Trainer) -> dict[str, tf.Variable]:
    """All that a train step reads and writes, by names that do not depend on Keras.

    Args:
        model: A compiled model, its optimizer built.

    Returns:
        Dict from `model/0`, `optimizer/0`, `average/0`, `metric/0` and so on to
        variables.
    """
    groups = {
        "model": model.weights,
        "optimizer": model.optimizer.variables,
        # Keras does not count the rate among the optimizer's variables.
        "learning_rate": [model.optimizer.learning_rate],
        "average": model.averages,
        # Keras counts the loss inside its own train step.
        "metric": [v for metric in model.metrics for v in metric.variables],
    }
    return {
        f"{group}/{i}": variable
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }


def train_epoch(model: Trainer, recipe: Recipe, images: data.Images):
    """A function that runs many steps on images that are given as tensors.

    Args:
        model: A compiled model, its optimizer built.
        recipe: Batch size, seed and augmentation.
        images: The data set's description.

    Returns:
        `tf.function` of `(images, labels, order, epoch, learning_rate)`: pixel values
        (uint8) and labels of the whole set, the order of this epoch's images (int32 of
        shape `(steps * batch_size,)`), the epoch's number (int64) and its learning
        rate. It returns loss and accuracy, averaged over the steps.
    """
    if recipe.mixup or recipe.cutmix:
        raise UserError(
            "The exported train step has no mixup or CutMix (XLA has no gamma "
            f"distribution). Received: mixup={recipe.mixup}, cutmix={recipe.cutmix}. "
            "Fix: set both to 0."
        )
    batch_size, classes = recipe.batch_size, images.source.num_classes

    @tf.function(jit_compile=True)
    def run(pixels, labels, order, epoch, learning_rate):
        rate = model.optimizer.learning_rate
        rate.assign(tf.cast(learning_rate, rate.dtype))
        steps = order.shape[0] // batch_size
        losses = tf.zeros([], tf.float64)
        correct = tf.zeros([], tf.float32)
        for step in tf.range(steps):
            index = tf.slice(order, [step * batch_size], [batch_size])
            seed = tf.stack([recipe.seed * 1_000_003 + epoch, tf.cast(step, tf.int64)])
            x = data.augment(
                tf.gather(pixels, index), seed, images.source, recipe.padding
            )
            x = data.normalize(x, images.name)
            y = tf.one_hot(tf.gather(labels, index), classes)
            with ops.using("accelerator"):
                loss, logits = model.update(x, y)
            losses += tf.cast(loss, tf.float64)
            hits = tf.equal(tf.argmax(logits, 1), tf.argmax(y, 1))
            correct += tf.reduce_mean(tf.cast(hits, tf.float32))
        return losses / steps, correct / steps

    return run


def export_epoch(
    model: Trainer, recipe: Recipe, images: data.Images, folder: Path
) -> None:
    """Write a folder that trains without TensorFlow.

    Holds `epoch.hlo` (an epoch as XLA), `description.json`, `state.npz` (weights,
    optimizer and moving averages), `data.npz`, and `run.py`, the script to run there.

    Args:
        model: A compiled model, its optimizer built.
        recipe: The recipe.
        images: The data set, in memory.
        folder: Where to write; made if missing.

    Raises:
        UserError: If the recipe has options that cannot be exported.
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    function = train_epoch(model, recipe, images)
    pixels, labels = images.train
    steps = len(pixels) // recipe.batch_size
    arguments = [
        tf.TensorSpec(pixels.shape, tf.uint8),
        tf.TensorSpec(labels.shape, tf.int64),
        tf.TensorSpec([steps * recipe.batch_size], tf.int32),
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([], tf.float32),
    ]
    concrete = function.get_concrete_function(*arguments)
    text = function.experimental_get_compiler_ir(*arguments)(stage="hlo")
    names = {id(v.handle): name for name, v in state_variables(model).items()}
    captured = [names.get(id(handle)) for handle in concrete.captured_inputs]
    if None in captured:
        raise RuntimeError("The train step reads a variable outside its state.")
    description = {
        "recipe": dataclasses.asdict(recipe),
        "arguments": len(arguments),
        "captured": captured,
        # Which result replaces which parameter; results 0 and 1 are loss and accuracy.
        "aliases": [
            [int(result or 0), int(parameter)]
            for result, parameter in _ALIAS.findall(text.split("\n", 1)[0])
        ],
        "examples": len(pixels),
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "learning_rates": [recipe.learning_rate_at(i) for i in range(recipe.epochs)],
    }
    # Source lines and operation names are half of the text and of no use there.
    text = re.sub(r", metadata=\{[^{}]*\}", "", text)
    write_atomically(folder / "epoch.hlo", text.encode())
    write_json(folder / "description.json", description)
    save_state(model, folder / "state.npz")
    np.savez_compressed(folder / "data.npz", images=pixels, labels=labels)
    runner = Path(__file__).with_name("xla_runner.py")
    shutil.copyfile(runner, folder / "run.py")


def save_state(model: Trainer, path: Path) -> None:
    """Write all variables of a train step to an `.npz`."""
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **{k: v.numpy() for k, v in state_variables(model).items()})
    write_atomically(path, buffer.getvalue())


def load_state(model: Trainer, path: Path) -> None:
    """Bring back what the runner trained.

    Args:
        model: The model that was exported.
        path: The runner's `state.npz`.

    Raises:
        UserError: If the file does not fit the model.
    """
    from larq_nobn.weights.transfer import assign_checked

    if not path.is_file():
        raise UserError(
            f"`path` must be the state.npz of an exported run. Received: {path}, which "
            "does not exist. Fix: run the exported folder's run.py first."
        )
    with np.load(path, allow_pickle=False) as file:
        values = {name: file[name] for name in file.files if name != "epochs_done"}
    # Metrics start anew, and exist only once a model has been trained.
    variables, values = (
        {name: value for name, value in named.items() if not name.startswith("metric/")}
        for named in (state_variables(model), values)
    )
    assign_checked(variables, values, "The exported run's state")
