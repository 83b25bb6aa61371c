"""Hypermodels for keras-tuner: the zoo's networks over a search space."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from larq_nobn._errors import UserError, one_of
from larq_nobn._tuner import import_keras_tuner
from larq_nobn.networks import NetworkSpec, build
from larq_nobn.training.engine import make_optimizer
from larq_nobn.training.recipe import SCHEDULES, Recipe, decay
from larq_nobn.tuning.space import SearchSpace, recipe_settings
from larq_nobn.weights.transfer import assign_checked, named_weights

keras_tuner = import_keras_tuner()

# Hyperparameters that belong to the network.
_NETWORK = ("alpha", "surrogate", "units", "width")


class FatalUserError(UserError, keras_tuner.errors.FatalError):
    """A `UserError` that ends a search: another trial would not help."""


def build_model(
    hyperparameters: Any,
    model: str = "reactnet18",
    *,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    num_classes: int = 10,
    stem: str = "cifar",
    norm: str = "free",
    loss: Any = "sparse_categorical_crossentropy",
    metrics: Sequence[Any] = ("accuracy",),
    step: str = "step2",
) -> tf.keras.Model:
    """Make a compiled network from hyperparameters.

    Args:
        hyperparameters: Values by name, of those in `PARAMETERS`: a dict, or a
            `keras_tuner.HyperParameters`. What is missing is the recipe's default.
        model: One of `zoo.list_models()`.
        input_shape: As in `zoo.create_model`, as are the next three.
        num_classes: Number of classes.
        stem: `"cifar"` or `"imagenet"`.
        norm: `"free"`, `"batch"` or `"none"`.
        loss: As in `compile`.
        metrics: As in `compile`.
        step: `"step2"` for binary activations and weights, `"step1"` for binary
            activations only, with L2.

    Returns:
        A compiled functional model from images, preprocessed by
        `zoo.preprocess_input`, to probabilities of shape `(batch, num_classes)`.

    Raises:
        UserError: If there is no such hyperparameter, or a value is wrong.

    Example:
        >>> model = build_model({"alpha": 0.3, "clip_factor": 0.01, "width": 16})
    """
    one_of("step", step, ("step1", "step2"))
    network = NetworkSpec(
        model,
        norm=norm,
        stem=stem,
        input_shape=input_shape,
        num_classes=num_classes,
    )
    values = hyperparameters
    if isinstance(hyperparameters, keras_tuner.HyperParameters):
        values = hyperparameters.values
    if not isinstance(values, Mapping):
        raise UserError(
            "`hyperparameters` must be a dict or a keras_tuner.HyperParameters",
            got=repr(hyperparameters),
            fix="for example {'alpha': 0.2}",
        )
    return _compile(values, network, step, loss, metrics)


def _compile(
    values: Mapping[str, Any],
    network: NetworkSpec,
    step: str,
    loss: Any,
    metrics: Sequence[Any],
) -> tf.keras.Model:
    settings = recipe_settings(values, epochs=2)
    # Only to check the values; any data set will do.
    recipe = Recipe(name="tuning", dataset="imagenet", model=network.name, **settings)
    searched = {name: settings[name] for name in _NETWORK if name in settings}
    model = build(replace(network, binary_weights=step == "step2", **searched))
    optimizer = make_optimizer(recipe, model, step)
    # keras-tuner reads a checkpoint into it, which otherwise finds no state there, and
    # says so for each variable.
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss, list(metrics))
    return model


class ReActNetHyperModel(keras_tuner.HyperModel):
    """A network of the zoo and its training, over a search space.

    Works in every tuner of keras-tuner. `build` gives an ordinary compiled model; `fit`
    takes what `search` is given, and trains in the paper's two steps (arXiv 2104.08215,
    Section 4.1): the first `step1_share` of the epochs with binary activations and real
    weights, the rest with binary weights, which alone are measured. keras-tuner's own
    callbacks watch the second step, the user's both. The learning rate decays over each
    step, and anew in each round of Hyperband; a round that goes on from another one has
    its second step only.

    Args:
        model: One of `zoo.list_models()`: ReActNets, A&B BNN, Bi-Real Net, XNOR-Net.
        input_shape: As in `zoo.create_model`, as are the next three.
        num_classes: Number of classes.
        stem: `"cifar"` or `"imagenet"`.
        norm: `"free"`, `"batch"` or `"none"`.
        loss: As in `compile`; `"categorical_crossentropy"` for one-hot labels.
        metrics: As in `compile`.
        schedule: `"cosine"`, `"linear"` (the paper's), or `None` for a constant rate.
        name: As in `keras_tuner.HyperModel`.
        tunable: As in `keras_tuner.HyperModel`.
        **ranges: As in `SearchSpace`.

    Raises:
        UserError: If an argument is wrong, or a range is impossible.

    Example:
        >>> hypermodel = ReActNetHyperModel(width=16, units=1, alpha=(0.1, 0.5))
        >>> tuner = keras_tuner.RandomSearch(
        ...     hypermodel, objective="val_accuracy", max_trials=20)
        >>> tuner.search_space_summary()  # then search(images, labels, ...)
    """

    def __init__(
        self,
        model: str = "reactnet18",
        *,
        input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
        num_classes: int = 10,
        stem: str = "cifar",
        norm: str = "free",
        loss: Any = "sparse_categorical_crossentropy",
        metrics: Sequence[Any] = ("accuracy",),
        schedule: str | None = "cosine",
        name: str | None = None,
        tunable: bool = True,
        **ranges: Any,
    ):
        one_of("schedule", schedule, (None, *SCHEDULES))
        self.space = SearchSpace(model, norm, **ranges)
        self.schedule = schedule
        self._declared = False
        self._loss, self._metrics = loss, metrics
        self.network = NetworkSpec(
            model,
            norm=norm,
            stem=stem,
            input_shape=input_shape,
            num_classes=num_classes,
        )
        super().__init__(name, tunable)

    def declare_hyperparameters(self, hp) -> None:
        """Take note that keras-tuner starts a new search."""
        self._declared = True

    def build(self, hp) -> tf.keras.Model:
        """Build the network of the second step.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            A compiled model.

        Raises:
            FatalUserError: If the values are those of another search.
        """
        return self._compiled(self._draw(hp))

    def fit(self, hp, model: tf.keras.Model, *args: Any, **kwargs: Any):
        """Train in two steps.

        Args:
            hp: A `keras_tuner.HyperParameters`.
            model: What `build` returned.
            *args: As in `tf.keras.Model.fit`.
            **kwargs: As in `tf.keras.Model.fit`.

        Returns:
            The `History` of the second step.

        Raises:
            FatalUserError: As in `build`.
        """
        call = inspect.signature(model.fit).bind(*args, **kwargs).arguments
        call |= call.pop("kwargs", {})
        start, end = call.get("initial_epoch", 0), call.get("epochs", 1)
        callbacks = list(call.get("callbacks") or [])
        values = self._draw(hp)
        first = recipe_settings(values, end - start)["step1_epochs"]
        if start == 0 and first > 0:
            twin = self._compiled(values, step="step1")
            own = [c for c in callbacks if not _is_keras_tuners(c)]
            self._fit(twin, {**call, "callbacks": own}, 0, first)
            weights = {k: v.numpy() for k, v in named_weights(twin).items()}
            assign_checked(named_weights(model), weights, "The weights of step 1")
            start = first
        return self._fit(model, {**call, "callbacks": callbacks}, start, end)

    def _fit(self, model: tf.keras.Model, call: dict[str, Any], start: int, end: int):
        rate = model.optimizer.learning_rate
        if self.schedule and isinstance(rate, tf.Variable):
            base = float(rate.numpy())
            scheduler = tf.keras.callbacks.LearningRateScheduler(
                lambda epoch: base * decay(self.schedule, epoch - start, end - start)
            )
            # First in the list, so that a user's own scheduler overrides it.
            call = {**call, "callbacks": [scheduler, *call["callbacks"]]}
        return model.fit(**{**call, "initial_epoch": start, "epochs": end})

    def _compiled(
        self, values: Mapping[str, Any], step: str = "step2"
    ) -> tf.keras.Model:
        try:
            return _compile(values, self.network, step, self._loss, self._metrics)
        except UserError as error:
            raise FatalUserError(str(error)) from error

    def _draw(self, hp) -> dict[str, Any]:
        names = {parameter.name for parameter in hp.space}
        if names and not self._declared and not names & set(self.space.varied):
            raise FatalUserError(
                "The tuner's folder must hold this search or none",
                got=f"one over {', '.join(sorted(names))}",
                fix="choose another directory or project_name, or overwrite=True",
            )
        try:
            return self.space.draw(hp)
        except UserError as error:
            raise FatalUserError(str(error)) from error


def _is_keras_tuners(callback: tf.keras.callbacks.Callback) -> bool:
    """Whether it reports and saves for keras-tuner."""
    return type(callback).__module__.startswith("keras_tuner.")
