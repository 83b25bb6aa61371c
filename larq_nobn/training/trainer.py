"""A network with its train step: losses with a teacher, and a moving average."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn.datasets import Dataset
from larq_nobn.losses import distribution_loss
from larq_nobn.models import FusedModel
from larq_nobn.saving import load_model

Teacher = Callable[[tf.Tensor], tf.Tensor]


class Trainer(FusedModel):
    """A functional model that trains with what Keras's own train step lacks.

    It shares the layers of the network that it is made of. Its inputs are normalized
    images, its outputs logits, its labels one-hot.

    Args:
        model: The network, with logits on top.
        teacher: Function from normalized images to the teacher's logits.
        teacher_weight: Share of the distribution loss.
        ema: Momentum of the moving average of the weights; 0 for none.
        flip_test: Whether testing averages over each image and its mirror image.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        *,
        teacher: Teacher | None = None,
        teacher_weight: float = 1.0,
        ema: float = 0.0,
        flip_test: bool = False,
    ):
        super().__init__(model.inputs, model.outputs, name=model.name)
        # Held in a closure, so that Keras does not track it as a sublayer.
        self._teacher = teacher
        self._teacher_weight = teacher_weight
        self._momentum = ema
        self._flip_test = flip_test
        if teacher is not None:
            self._objective = tf.keras.metrics.Mean(name="objective")
        self.averages = [
            tf.Variable(
                variable,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                name=f"average_{i}",
            )
            for i, variable in enumerate(self.trainable_variables if ema else ())
        ]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        """Cross-entropy, the distribution loss, or a mixture."""
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        if self._teacher is None:
            return loss
        per_sample = distribution_loss(self._teacher(x), tf.cast(y_pred, tf.float32))
        # Each replica holds its share of the global batch.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        distilled = tf.reduce_mean(per_sample) / replicas
        weight = self._teacher_weight
        objective = weight * distilled + (1 - weight) * loss
        self._objective.update_state(objective * replicas)
        return objective

    def update(self, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One step of the optimizer and of the moving average.

        Args:
            x: Normalized images.
            y: One-hot labels.

        Returns:
            The loss and the logits, from before the step.
        """
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            loss = self.compute_loss(x, y, logits)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        for average, variable in zip(
            self.averages, self.trainable_variables, strict=bool(self.averages)
        ):
            step = (1 - self._momentum) * (variable - average)
            average.assign(average + step)
        return loss, logits

    def train_step(self, data):
        """The step that `fit` takes."""
        x, y = data
        _, logits = self.update(x, y)
        logs = self.compute_metrics(x, y, logits, None)
        if self._teacher is not None:
            # Keras reports the compiled loss, which is a part of the objective only.
            logs["loss"] = self._objective.result()
        return logs

    def test_step(self, data):
        """Keras's test step, on mirror images too where asked for."""
        x, y = data
        logits = self(x, training=False)
        if self._flip_test:
            logits = (logits + self(x[:, :, ::-1], training=False)) / 2
        self.compiled_loss(y, logits)
        return self.compute_metrics(x, y, logits, None)

    def start_averages(self) -> None:
        """Let the moving averages start from the weights as they are now."""
        variables = self.trainable_variables
        for average, variable in zip(self.averages, variables, strict=False):
            average.assign(variable)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the moving averages in place of the weights, if there are any."""
        if not self.averages:
            yield
            return
        weights = [variable.numpy() for variable in self.trainable_variables]
        for variable, average in zip(
            self.trainable_variables, self.averages, strict=True
        ):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, value in zip(self.trainable_variables, weights, strict=True):
                variable.assign(value)


def load_teacher(name: str, row: Dataset) -> Teacher:
    """Load a frozen teacher.

    Args:
        name: Path of a saved Keras model, or `"keras:NAME"`.
        row: The student's data set, by which its images are normalized.

    Returns:
        Function from normalized images to logits.

    Raises:
        UserError: If there is no such teacher, or it has other classes.
    """
    if name.startswith("keras:"):
        model, prepare = _keras_application(name.removeprefix("keras:"), row)
    else:
        if not Path(name).exists():
            raise UserError(
                "`teacher` must be the path of a saved Keras model or 'keras:NAME'",
                got=f"{name!r}, which does not exist",
                fix="check the path",
            )
        model, prepare = load_model(name, compile=False), lambda images: images
    model.trainable = False
    classes = model.output_shape[-1]
    if len(model.output_shape) != 2 or classes != row.num_classes:
        raise UserError(
            f"`teacher` must have the student's {row.num_classes} classes",
            got=f"{name!r} with output shape {model.output_shape}",
            fix="choose a teacher that was trained on the same data set",
        )
    last = model.layers[-1]
    softmax = getattr(last, "activation", None) is tf.keras.activations.softmax

    def teacher(images: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(model(prepare(images), training=False), tf.float32)
        outputs = tf.math.log(tf.maximum(outputs, 1e-30)) if softmax else outputs
        return tf.stop_gradient(outputs)

    return teacher


def _keras_application(name: str, row: Dataset):
    """A network of keras.applications, and its preprocessing behind our own."""
    build = getattr(tf.keras.applications, name, None)
    if build is None or not name[0].isupper():
        raise UserError(
            "`teacher` must be a network of keras.applications after 'keras:'",
            got=repr(name),
            fix="for example keras:ResNet50",
        )
    try:
        model = build(weights="imagenet")
    except OSError as error:
        raise UserError(
            f"The weights of keras.applications' {name} must be in Keras's cache or "
            "downloadable",
            got=str(error).splitlines()[0],
            fix="connect to the network once, or pass the path of a saved Keras model",
        ) from error
    # build() lives in the module that also holds its preprocess_input.
    module = __import__(build.__module__, fromlist=["preprocess_input"])
    mean, std = np.float32(row.mean), np.float32(row.std)

    def prepare(images: tf.Tensor) -> tf.Tensor:
        return module.preprocess_input((images * std + mean) * 255.0)

    return model, prepare
