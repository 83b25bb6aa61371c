"""Optimizers around an optimizer: they change the gradients and hand them on."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace

import tensorflow as tf

from larq_nobn._registration import register
from larq_nobn.math import agc_scale

# Variables, and layers for all of their trainable variables.
Selection = Sequence["tf.Variable | tf.keras.layers.Layer"]


class GradientTransformation(tf.keras.optimizers.Optimizer):
    """A Keras optimizer that transforms gradients and lets another one apply them.

    Learning rate, iterations, slots and moving averages are the inner optimizer's. In a
    distribution strategy gradients are summed over the replicas first, so that every
    replica transforms the same gradient.

    Args:
        optimizer: A Keras optimizer or its name.
        name: Name of this optimizer.

    Raises:
        TypeError: If `optimizer` is not a `tf.keras.optimizers.Optimizer`.
    """

    def __init__(self, optimizer, name: str):
        self._optimizer = _check_optimizer(optimizer, type(self).__name__)
        super().__init__(
            name=name,
            use_ema=self._optimizer.use_ema,
            ema_momentum=self._optimizer.ema_momentum,
            ema_overwrite_frequency=self._optimizer.ema_overwrite_frequency,
            jit_compile=self._optimizer.jit_compile,
        )

    def transform(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Return the gradient to apply. Implemented by each transformation.

        Args:
            gradient: Dense gradient, summed over replicas.
            variable: The variable, of the same shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `transform`.")

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Create the inner optimizer's state for these variables."""
        if getattr(self, "_built", False):
            return
        self._optimizer.build(var_list)
        self._build_index_dict(var_list)
        self._built = True

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]],
        name: str | None = None,
        skip_gradients_aggregation: bool = False,
        **kwargs,
    ) -> tf.Variable:
        """Transform the gradients and apply them. See the Keras base class.

        Args:
            grads_and_vars: Pairs of gradient and variable; a `None` gradient leaves its
                variable alone.
            name: Name scope for the inner optimizer.
            skip_gradients_aggregation: Whether the gradients are already summed over
                the replicas.
            **kwargs: `experimental_aggregate_gradients`, the older form of the same.

        Returns:
            The inner optimizer's iteration counter.
        """
        grads_and_vars = list(grads_and_vars)
        if grads_and_vars:
            with tf.init_scope():
                self.build([variable for _, variable in grads_and_vars])
        aggregate = kwargs.pop("experimental_aggregate_gradients", True)
        if aggregate and not skip_gradients_aggregation:
            grads_and_vars = self._optimizer.aggregate_gradients(grads_and_vars)
        transformed = [
            (
                None
                if gradient is None
                else self.transform(tf.convert_to_tensor(gradient), variable),
                variable,
            )
            for gradient, variable in grads_and_vars
        ]
        return self._optimizer.apply_gradients(
            transformed, name=name, skip_gradients_aggregation=True
        )

    def _positions(self, variables: Sequence[tf.Variable]) -> list[int]:
        """Where variables stand among the trained ones; frozen ones do not."""
        positions = (self._index_dict.get(self._var_key(v)) for v in variables)
        return [position for position in positions if position is not None]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Update one variable."""
        self._optimizer.update_step(self.transform(gradient, variable), variable)

    @property
    def inner_optimizer(self) -> tf.keras.optimizers.Optimizer:
        """The optimizer that applies the gradients."""
        return self._optimizer

    # What Keras, its callbacks and LossScaleOptimizer read and set.

    def _create_iteration_variable(self):
        # The inner optimizer counts; SavedModel looks for a counter by this name.
        self._iterations = self._optimizer.iterations

    @property
    def iterations(self) -> tf.Variable:
        """The inner optimizer's step counter."""
        return self._optimizer.iterations

    @iterations.setter
    def iterations(self, variable):
        self._optimizer.iterations = variable

    @property
    def learning_rate(self):
        """The inner optimizer's learning rate; set it with a number or a schedule."""
        return self._optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        _check_learning_rate(learning_rate)
        self._optimizer.learning_rate = learning_rate

    @property
    def lr(self):
        """Older name of `learning_rate`."""
        return self.learning_rate

    @lr.setter
    def lr(self, learning_rate):
        self.learning_rate = learning_rate

    @property
    def variables(self):
        """The inner optimizer's variables."""
        return self._optimizer.variables

    def set_weights(self, weights) -> None:
        """Set the inner optimizer's state (used by Keras to load HDF5 files)."""
        self._optimizer.set_weights(weights)

    def save_own_variables(self, store) -> None:
        """Nothing of its own: Keras saves the inner optimizer as a child."""

    def load_own_variables(self, store) -> None:
        """Nothing of its own: Keras loads the inner optimizer as a child."""

    def finalize_variable_values(self, var_list) -> None:
        """Let the inner optimizer write its moving averages, if it keeps any."""
        self._optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {
            "optimizer": tf.keras.optimizers.serialize(self._optimizer),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Make an optimizer from `get_config`'s result."""
        config = dict(config)
        if isinstance(config["optimizer"], dict):
            config["optimizer"] = tf.keras.optimizers.deserialize(
                config["optimizer"], custom_objects=custom_objects
            )
        return cls(**config)


@register
class AdaptiveGradientClipping(GradientTransformation):
    r"""Clip each unit's gradient to a fraction of its weights' norm, then optimize.

    "High-performance large-scale image recognition without normalization" (arXiv
    2102.06171), equation 3; "BNN - BN = ?" (arXiv 2104.08215), Section 3.3:

    \\[ G_i \leftarrow \lambda \frac{\max(\|W_i\|, \epsilon)}{\|G_i\|} G_i
    \quad\text{where}\quad \|G_i\| \ge \lambda \max(\|W_i\|, \epsilon) \\]

    A unit is an output channel (the last axis) for variables of rank 2 and more, and
    the whole variable for rank 0 and 1. Clipping comes before everything that the inner
    optimizer does to gradients, its own `clipnorm` included. A Keras optimizer itself:
    use it in `compile`, with learning-rate callbacks, mixed precision, `tf.distribute`
    and XLA; models save and load with it.

    Args:
        optimizer: Any `tf.keras.optimizers.Optimizer`, or its name.
        clip_factor: \\(\lambda\\); 0.02 in the paper's ImageNet training.
        eps: \\(\epsilon\\), so that zero-initialized weights can move.
        exclude: Variables, or layers for all of their variables, that are not clipped.
            The papers leave out the final classifier.
        track_clipping: Count how much is clipped; see `clipping_report` and
            `larq_nobn.callbacks.ClippingReport`.
        name: Name of the optimizer.

    Raises:
        ValueError: If `clip_factor` or `eps` is not positive.
        TypeError: If `optimizer` is of the wrong kind, or `exclude` holds something
            other than variables and layers.

    Example:
        >>> optimizer = AdaptiveGradientClipping(
        ...     tf.keras.optimizers.Adam(5e-4), clip_factor=0.02,
        ...     exclude=[model.get_layer("classifier")])
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """

    def __init__(
        self,
        optimizer,
        clip_factor: float = 0.02,
        eps: float = 1e-3,
        exclude: Selection = (),
        *,
        track_clipping: bool = False,
        name: str = "adaptive_gradient_clipping",
    ):
        _check_positive("clip_factor", clip_factor, "0.02 is the paper's choice")
        _check_positive("eps", eps, "1e-3 is the papers' choice")
        super().__init__(optimizer, name)
        self.clip_factor = float(clip_factor)
        self.eps = float(eps)
        self.track_clipping = bool(track_clipping)
        self._exclude = _Selection("exclude", exclude)
        # In a namespace, so that monitoring is no part of the saved state.
        self._clipped = SimpleNamespace(counters={})

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Create the inner state and find the excluded variables."""
        if getattr(self, "_built", False):
            return
        super().build(var_list)
        excluded = self._exclude.resolve(var_list)
        self._excluded_keys = {self._var_key(variable) for variable in excluded}
        self._excluded_positions = self._positions(excluded)
        if self.track_clipping:
            # ON_READ: each replica counts by itself, with no communication in the step.
            for variable in var_list:
                key = self._var_key(variable)
                if key not in self._excluded_keys:
                    counter = tf.Variable(
                        tf.zeros(3),
                        trainable=False,
                        synchronization=tf.VariableSynchronization.ON_READ,
                        aggregation=tf.VariableAggregation.MEAN,
                        name=f"{self.name}/clipped",
                    )
                    self._clipped.counters[key] = (variable.name, counter)

    def transform(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Clip one gradient."""
        if self._var_key(variable) in self._excluded_keys:
            return gradient
        parameter = tf.convert_to_tensor(variable)
        scale = agc_scale(gradient, parameter, self.clip_factor, self.eps)
        if self.track_clipping:
            counted = tf.cast(scale, tf.float32)
            clipped = tf.reduce_mean(tf.cast(counted < 1, tf.float32))
            _, counter = self._clipped.counters[self._var_key(variable)]
            counter.assign_add(tf.stack([clipped, tf.reduce_mean(counted), 1.0]))
        return gradient * tf.cast(scale, gradient.dtype)

    def clipping_report(self, reset: bool = False) -> dict[str, dict[str, float]]:
        """How much was clipped since the last reset.

        Args:
            reset: Whether to start counting anew.

        Returns:
            For each clipped variable's name `{"fraction": ..., "scale": ...}`: the
            fraction of its units that were clipped, and the mean factor on its
            gradients (1 is untouched), both averaged over the steps.

        Raises:
            ValueError: If the optimizer was made without `track_clipping=True`.
        """
        if not self.track_clipping:
            raise ValueError(
                "Clipping is counted only on request. Received: track_clipping=False. "
                "Fix: AdaptiveGradientClipping(..., track_clipping=True)."
            )
        report = {}
        for name, counter in self._clipped.counters.values():
            fraction, scale, steps = counter.numpy().tolist()
            if steps:
                report[name] = {"fraction": fraction / steps, "scale": scale / steps}
            if reset:
                counter.assign(tf.zeros(3))
        return report

    def get_config(self) -> dict:
        """Return the constructor's arguments, the selection in its saved form."""
        if getattr(self, "_built", False):
            exclude = self._excluded_positions
        else:
            exclude = self._exclude.describe()
        return {
            **super().get_config(),
            "clip_factor": self.clip_factor,
            "eps": self.eps,
            "exclude": exclude,
            "track_clipping": self.track_clipping,
        }


@register
class CoupledWeightDecay(GradientTransformation):
    r"""Add \\(\lambda w\\) to the gradients of chosen variables, then optimize.

    Classic L2 regularization, as `weight_decay` of PyTorch's Adam does it: it passes
    through the moments, other than Keras's decoupled `weight_decay`, and, put inside
    `AdaptiveGradientClipping`, it is added after clipping, other than Keras's
    regularizers. The paper's step 1 uses it (arXiv 2104.08215, Section 4.1).

    Args:
        optimizer: Any `tf.keras.optimizers.Optimizer`, or its name.
        weight_decay: \\(\lambda\\).
        variables: Variables, or layers for all of theirs, that decay.
        name: Name of the optimizer.

    Raises:
        ValueError: If `weight_decay` is negative.
        TypeError: As in `AdaptiveGradientClipping`.
    """

    def __init__(
        self,
        optimizer,
        weight_decay: float,
        variables: Selection,
        *,
        name: str = "coupled_weight_decay",
    ):
        if not weight_decay >= 0:
            raise ValueError(
                "`weight_decay` must not be negative. "
                f"Received: weight_decay={weight_decay!r}. Fix: 1e-5 is the paper's."
            )
        decayed = _Selection("variables", variables)
        super().__init__(optimizer, name)
        # Keras's own attribute of that name would decay a second time.
        self.coupled_weight_decay = float(weight_decay)
        self._decayed = decayed

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Create the inner state and find the decayed variables."""
        if getattr(self, "_built", False):
            return
        super().build(var_list)
        decayed = self._decayed.resolve(var_list)
        self._decayed_keys = {self._var_key(variable) for variable in decayed}
        self._decayed_positions = self._positions(decayed)

    def transform(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Add the decay to one gradient."""
        if self._var_key(variable) not in self._decayed_keys:
            return gradient
        # Not tf.cast of the Python number, which would round it to float32.
        decay = tf.constant(self.coupled_weight_decay, gradient.dtype)
        return gradient + decay * tf.cast(variable, gradient.dtype)

    def get_config(self) -> dict:
        """Return the constructor's arguments, the selection in its saved form."""
        if getattr(self, "_built", False):
            variables = self._decayed_positions
        else:
            variables = self._decayed.describe()
        return {
            **super().get_config(),
            "weight_decay": self.coupled_weight_decay,
            "variables": variables,
        }


def _check_optimizer(optimizer, wrapper: str) -> tf.keras.optimizers.Optimizer:
    if isinstance(optimizer, (str, dict)):
        optimizer = tf.keras.optimizers.get(optimizer)
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        raise TypeError(
            f"{wrapper} must see unscaled gradients, so it goes inside the "
            f"LossScaleOptimizer. Received: {type(optimizer).__name__}. "
            f"Fix: LossScaleOptimizer({wrapper}(optimizer)), or leave it out: Keras "
            "adds it in `compile` under the policy mixed_float16."
        )
    if not isinstance(optimizer, tf.keras.optimizers.Optimizer):
        fix = "pass for example tf.keras.optimizers.Adam(5e-4)"
        if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
            fix = "use the class of the same name from tf.keras.optimizers"
        raise TypeError(
            f"`optimizer` must be a tf.keras.optimizers.Optimizer or a name. Received: "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}. Fix: {fix}."
        )
    # Keras takes any learning rate, and fails in the first step.
    _check_learning_rate(getattr(optimizer, "_learning_rate", 0.0))
    return optimizer


def _check_learning_rate(learning_rate) -> None:
    kinds = (tf.keras.optimizers.schedules.LearningRateSchedule, tf.Variable)
    if isinstance(learning_rate, kinds):
        return
    try:
        float(learning_rate)
        number = not isinstance(learning_rate, (str, bytes, bool))
    except (TypeError, ValueError):
        number = False
    if not number:
        raise TypeError(
            "`learning_rate` must be a number or a "
            "tf.keras.optimizers.schedules.LearningRateSchedule. "
            f"Received: {learning_rate!r}. Fix: for example 5e-4."
        )


def _check_positive(name: str, value, hint: str) -> None:
    if isinstance(value, (str, bool)) or not value > 0:
        raise ValueError(
            f"`{name}` must be a positive number. Received: {name}={value!r}. "
            f"Fix: {hint}."
        )


class _Selection:
    """Variables chosen by the user, and how a saved optimizer remembers them.

    Not a list or a dict on purpose: Keras and TensorFlow would save the chosen layers
    as parts of the optimizer.

    A saved selection holds positions among the trained variables or, from before the
    optimizer was built, names and shapes: Keras names the variables of a loaded
    `.keras` model anew, without their layer.
    """

    def __init__(self, argument: str, items):
        if isinstance(items, (str, tf.Variable, tf.Module)):
            raise TypeError(
                f"`{argument}` must be a list or tuple of variables and layers. "
                f"Received: {items!r}. Fix: wrap it, {argument}=[...]."
            )
        self._argument = argument
        self._items = list(items)
        kinds = (tf.Variable, tf.keras.layers.Layer, int, dict)
        for item in self._items:
            if not isinstance(item, kinds) and not hasattr(item, "_unique_id"):
                raise TypeError(
                    f"`{argument}` must hold variables or layers. Received: "
                    f"{item!r} of type {type(item).__name__}. Fix: pass for example "
                    "model.get_layer('classifier')."
                )

    def _flat(self) -> list:
        """The items, layers replaced by their trainable variables."""
        flat = []
        for item in self._items:
            is_layer = isinstance(item, tf.keras.layers.Layer)
            flat.extend(item.trainable_variables if is_layer else [item])
        return flat

    def describe(self) -> list:
        """Saved form before the optimizer is built."""
        return [
            item
            if isinstance(item, (int, dict))
            else {"name": item.name, "shape": list(item.shape)}
            for item in self._flat()
        ]

    def resolve(self, var_list: Sequence[tf.Variable]) -> list[tf.Variable]:
        """The chosen variables, saved forms looked up among the trained ones."""
        return [
            self._find(item, var_list) if isinstance(item, (int, dict)) else item
            for item in self._flat()
        ]

    def _find(self, saved: int | dict, var_list: Sequence[tf.Variable]) -> tf.Variable:
        if isinstance(saved, int):
            matches = list(var_list[saved : saved + 1]) if saved >= 0 else []
        else:
            same = [v for v in var_list if list(v.shape) == list(saved["shape"])]
            matches = [v for v in same if v.name == saved["name"]] or [
                v for v in same if f"/{saved['name']}".endswith(f"/{v.name}")
            ]
        if len(matches) != 1:
            raise ValueError(
                f"`{self._argument}` was saved with a variable that must be found once "
                f"among the {len(var_list)} trained ones. Received: {saved!r}, found "
                f"{len(matches)} times. Fix: load the model with compile=False and "
                "compile it again; to save a model before its first training step, "
                "call optimizer.build(model.trainable_variables) first."
            )
        return matches[0]
