"""The train and test steps as XLA programs, for machines without TensorFlow.

A whole epoch (batches, augmentation, forward, backward, clipping, optimizer) is one
serialized program, the test another; `xla_runner.py`, a script that needs jax and NumPy
only, runs them on any PJRT device.
"""

import collections
import dataclasses
import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

from larq_nobn import __version__, ops
from larq_nobn._files import write_json
from larq_nobn.training import data, xla_runner
from larq_nobn.training.engine import STEPS, build_trainer
from larq_nobn.training.recipe import Recipe
from larq_nobn.training.trainer import Trainer, load_teacher
from larq_nobn.weights.transfer import named_weights

# Larger kernels travel as int8 with a scale: a random start is as good when rounded.
_ROUNDED_FROM = 10_000
_TEST_BATCH = 500


def state_variables(model: Trainer) -> dict[str, tf.Variable]:
    """All that a train step reads and writes, by names that do not depend on Keras.

    Args:
        model: A compiled model, its optimizer built.

    Returns:
        Dict from `model/LAYER/WEIGHT`, `average/LAYER/WEIGHT`, `optimizer/0`,
        `metric/0` and so on to variables.
    """
    weights = named_weights(model)
    names = {id(variable): name for name, variable in weights.items()}
    trained = [names[id(variable)] for variable in model.trainable_variables]
    groups = {
        "model": weights,
        # `None` if there is no moving average.
        "average": dict(zip(trained, model.averages, strict=False)),
        "optimizer": dict(enumerate(model.optimizer.variables)),
        # Keras does not count the rate among the optimizer's variables.
        "learning_rate": {0: model.optimizer.learning_rate},
        # Keras counts the loss inside its own train step.
        "metric": dict(enumerate(v for m in model.metrics for v in m.variables)),
    }
    return {
        f"{group}/{name}": variable
        for group, variables in groups.items()
        for name, variable in variables.items()
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
    batch_size, classes = recipe.batch_size, images.row.num_classes

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
            x = data.augment(tf.gather(pixels, index), seed, images.row, recipe.padding)
            x = data.normalize(x, images.row)
            y = tf.one_hot(tf.gather(labels, index), classes)
            loss, logits = model.update(x, y)
            losses += tf.cast(loss, tf.float64)
            hits = tf.equal(tf.argmax(logits, 1), tf.argmax(y, 1))
            correct += tf.reduce_mean(tf.cast(hits, tf.float32))
        return losses / steps, correct / steps

    return run


def test_images(model: Trainer, recipe: Recipe, images: data.Images):
    """A function that tests the model on all of the images.

    Args:
        model: A compiled model.
        recipe: Says whether mirror images are tested too, and how labels are smoothed.
        images: The data set's description.

    Returns:
        `tf.function` of `(images, labels)` to the summed loss and the number of hits.
    """
    classes = images.row.num_classes

    def test(x, y):
        x, y = data.normalize(x, images.row), tf.one_hot(y, classes)
        logits = model(x, training=False)
        if recipe.flip_test:
            logits = (logits + model(x[:, :, ::-1], training=False)) / 2
        loss = tf.keras.losses.categorical_crossentropy(
            y, logits, from_logits=True, label_smoothing=recipe.label_smoothing
        )
        hits = tf.equal(tf.argmax(logits, 1), tf.argmax(y, 1))
        sums = tf.reduce_sum(tf.cast(loss, tf.float64)), tf.math.count_nonzero(hits)
        return tf.stack([sums[0], tf.cast(sums[1], tf.float64)])

    @tf.function(jit_compile=True)
    def run(pixels, labels):
        count = labels.shape[0]
        batch = min(count, _TEST_BATCH)
        totals = tf.zeros([2], tf.float64)
        for i in tf.range(count // batch):
            x = tf.slice(pixels, [i * batch, 0, 0, 0], [batch, *pixels.shape[1:]])
            totals += test(x, tf.slice(labels, [i * batch], [batch]))
        rest = count % batch
        if rest:
            totals += test(pixels[-rest:], labels[-rest:])
        return totals[0], totals[1]

    return run


def serialize(function, arguments: list[tf.TensorSpec]) -> tuple[bytes, dict[str, Any]]:
    """A jit-compiled function as an XLA program.

    Not as text: that leaves out constants of more than ten numbers, which come back as
    zeros; the random crop's `range(height)` is one.

    Args:
        function: A `tf.function` with `jit_compile=True`.
        arguments: What it takes.

    Returns:
        The serialized `HloModuleProto`, and its description: `aliases`, the pairs of a
        result and the parameter that it replaces, and `convolutions`, their number by
        type.
    """
    with ops.using("accelerator"):  # It traces here.
        compiled = function.experimental_get_compiler_ir(*arguments)
    module = hlo_pb2.HloModuleProto.FromString(compiled(stage="hlo_serialized"))
    kinds = collections.Counter()
    for computation in module.computations:
        for instruction in computation.instructions:
            # Source lines and operation names are half of the program.
            instruction.ClearField("metadata")
            if instruction.opcode == "copy":
                # The CUDA plugin cannot serialize `copy`; this reshape is equivalent.
                instruction.opcode = "reshape"
            if instruction.opcode == "convolution":
                kind = xla_data_pb2.PrimitiveType.Name(instruction.shape.element_type)
                kinds[kind.lower()] += 1
    aliases = [
        [int(next(iter(entry.output_shape_index), 0)), int(entry.parameter_number)]
        for entry in module.input_output_alias.entries
    ]
    return module.SerializeToString(), {"aliases": aliases, "convolutions": dict(kinds)}


class _Programs:
    """Collects the programs of a folder, and what they read besides the state."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.entries: dict[str, dict] = {}
        self.fixed: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        # Keeps them alive, so that their ids stay unique.
        self._handles: list[tf.Tensor] = []

    def add(self, name: str, function, arguments: list, model: Trainer) -> None:
        program, entry = serialize(function, arguments)
        concrete = function.get_concrete_function(*arguments)
        names = {id(v.handle): name for name, v in state_variables(model).items()}
        values = {id(v.handle): v for v in concrete.graph.variables}
        captured = []
        for handle in concrete.captured_inputs:
            known = names.get(id(handle)) or self._names.get(id(handle))
            if known is None:
                known = f"fixed/{len(self.fixed)}"
                self.fixed[known] = values.get(id(handle), handle).numpy()
                self._names[id(handle)] = known
                self._handles.append(handle)
            captured.append(known)
        written = {captured[p - len(arguments)] for _, p in entry["aliases"]}
        if written & set(self.fixed):
            raise RuntimeError(f"{name} changes a variable outside its state.")
        packed = gzip.compress(program, 9, mtime=0)
        self.entries[name] = {
            "file": xla_runner.write_file(
                self.folder / f"{name}.pb.gz", lambda file: file.write(packed)
            ),
            "captured": captured,
            **entry,
        }


def export(recipe: Recipe, images: data.Images, folder: Path, part_mb: float) -> None:
    """Write what trains without TensorFlow into a folder.

    Programs (`step1.pb.gz`, `step1_test.pb.gz` and so on), data and initial weights
    (`data_*.npz`, `weights_*.npz`), the script `run.py`, and last `description.json`.

    Args:
        recipe: The recipe.
        images: The data set, in memory.
        folder: Where to write; it must exist.
        part_mb: Size of a piece of the data and weights, at most.

    Raises:
        UserError: If the teacher cannot be loaded.
        OSError: If the folder cannot be written.
    """
    teacher = None
    if recipe.teacher is not None:
        teacher = load_teacher(recipe.teacher, images.row)
    (x, y), (test_x, test_y) = images.train, images.test
    steps = len(x) // recipe.batch_size
    programs = _Programs(folder)
    zeros, epochs = {}, {step: recipe.epochs_of(step) for step in STEPS}
    weights: dict[str, np.ndarray] = {}
    for step in (step for step, count in epochs.items() if count):
        model = build_trainer(recipe, step, teacher)
        arguments = [
            tf.TensorSpec(x.shape, tf.uint8),
            tf.TensorSpec(y.shape, tf.int64),
            tf.TensorSpec([steps * recipe.batch_size], tf.int32),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([], tf.float32),
        ]
        programs.add(step, train_epoch(model, recipe, images), arguments, model)
        arguments = [
            tf.TensorSpec(test_x.shape, tf.uint8),
            tf.TensorSpec(test_y.shape, tf.int64),
        ]
        function = test_images(model, recipe, images)
        programs.add(f"{step}_test", function, arguments, model)
        variables = state_variables(model)
        zeros[step] = _zeros(variables)
        if not weights:  # The first step's: published ones are for that.
            weights = {
                name: variable.numpy()
                for name, variable in variables.items()
                if name.startswith("model/")
            }
    rounded, scales = (weights, {}) if recipe.weights else _rounded(weights)
    most, save = 1e6 * part_mb, np.savez_compressed
    arrays = {
        # Differences along a row compress a fifth better than pixels.
        "train_images": np.diff(x, axis=2, prepend=np.uint8(0)),
        "train_labels": y,
        "test_images": np.diff(test_x, axis=2, prepend=np.uint8(0)),
        "test_labels": test_y,
    }
    description = {
        "format": xla_runner.FORMAT,
        "larq_nobn": __version__,
        "recipe": dataclasses.asdict(recipe),
        "epochs": epochs,
        "steps": steps,
        "used_examples": steps * recipe.batch_size,
        "programs": programs.entries,
        "zeros": zeros,
        "averages": sorted(
            name.removeprefix("average/")
            for name in variables
            if name.startswith("average/")
        ),
        "data": xla_runner.write_pieces(folder, "data", arrays, most, save),
        "weights": xla_runner.write_pieces(
            folder, "weights", rounded | programs.fixed, most, save
        ),
        "scales": scales,
    }
    shutil.copyfile(xla_runner.__file__, folder / "run.py")
    digest = hashlib.sha256(json.dumps(description).encode()).hexdigest()
    # Written last: it marks the folder as complete.
    write_json(folder / "description.json", {**description, "id": digest[:16]})


def _zeros(variables: dict[str, tf.Variable]) -> dict[str, list]:
    """Shape and type of what a step starts from zero: all but weights and averages."""
    zeros = {}
    for name, variable in variables.items():
        if name.startswith(("model/", "average/")):
            continue
        value = variable.numpy()
        # The program sets the rate itself.
        if value.any() and name != "learning_rate/0":
            raise RuntimeError(f"{name} must start from zero to be exported.")
        zeros[name] = [list(value.shape), str(value.dtype)]
    return zeros


def _rounded(weights: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Large kernels as int8, and the scale and type of each."""
    arrays, scales = dict(weights), {}
    for name, value in weights.items():
        if value.ndim == 4 and value.size >= _ROUNDED_FROM:
            scale = float(np.abs(value).max() / 127)
            arrays[name] = np.round(value / scale).astype(np.int8)
            scales[name] = [scale, str(value.dtype)]
    return arrays, scales
