"""The base of optimizers around an optimizer, and what they check."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from operator import index

import tensorflow as tf

from larq_nobn._errors import UserError, UserTypeError
from larq_nobn._keras2 import OuterOptimizer, is_variable, unchecked_learning_rate


class GradientTransformation(OuterOptimizer):
    """A Keras optimizer that transforms gradients and lets another one apply them.

    Learning rate, iterations, slots, moving averages and all else that Keras documents
    on an optimizer are the inner one's, set after construction too. In a distribution
    strategy gradients are summed over the replicas first, so that every replica
    transforms the same gradient.

    Args:
        optimizer: A Keras optimizer or its name.
        name: Name of this optimizer.

    Raises:
        TypeError: If `optimizer` is not a `tf.keras.optimizers.Optimizer`.
    """

    def __init__(self, optimizer, name: str):
        super().__init__(_check_optimizer(optimizer, type(self).__name__), name)

    def transform(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Return the gradient to apply. Implemented by each transformation.

        Args:
            gradient: Dense gradient, summed over replicas.
            variable: The variable, of the same shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `transform`.")

    def transform_all(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable]
    ) -> list[tf.Tensor]:
        """Transform the gradients of a step.

        Args:
            gradients: As in `transform`, one per variable.
            variables: The variables.

        Returns:
            The gradients to apply, in the same order.
        """
        pairs = zip(gradients, variables, strict=True)
        return [self.transform(gradient, variable) for gradient, variable in pairs]

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
        if aggregate and not skip_gradients_aggregation and self._is_to_aggregate():
            grads_and_vars = self._optimizer.aggregate_gradients(grads_and_vars)
        known = [(g, variable) for g, variable in grads_and_vars if g is not None]
        gradients = [tf.convert_to_tensor(gradient) for gradient, _ in known]
        transformed = iter(self.transform_all(gradients, [v for _, v in known]))
        # Include variables without a gradient: the inner optimizer warns about them.
        return self._optimizer.apply_gradients(
            [(g if g is None else next(transformed), v) for g, v in grads_and_vars],
            name=name,
            skip_gradients_aggregation=True,
        )

    def _is_to_aggregate(self) -> bool:
        """Not where Keras would copy all gradients, as there is one replica."""
        of_keras = (
            type(self._optimizer).aggregate_gradients
            is tf.keras.optimizers.Optimizer.aggregate_gradients
        )
        return not of_keras or tf.distribute.get_strategy().num_replicas_in_sync > 1

    def _positions(self, variables: Sequence[tf.Variable]) -> list[int]:
        """Where variables stand among the trained ones; frozen ones do not."""
        positions = map(self.index_of, variables)
        return [position for position in positions if position is not None]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Update one variable."""
        self._optimizer.update_step(self.transform(gradient, variable), variable)

    @property
    def inner_optimizer(self) -> tf.keras.optimizers.Optimizer:
        """The optimizer that applies the gradients."""
        return self._optimizer

    # Attributes that Keras, its callbacks and LossScaleOptimizer read and set.

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

    def exclude_from_weight_decay(self, var_list=None, var_names=None) -> None:
        """Choose what the inner optimizer's weight decay leaves alone."""
        self._optimizer.exclude_from_weight_decay(var_list, var_names)

    def aggregate_gradients(self, grads_and_vars):
        """Sum gradients over the replicas, as the inner optimizer does."""
        return self._optimizer.aggregate_gradients(grads_and_vars)

    def compute_gradients(self, loss, var_list, tape=None):
        """Compute gradients, as the inner optimizer does."""
        return self._optimizer.compute_gradients(loss, var_list, tape)

    def add_variable(self, *args, **kwargs) -> tf.Variable:
        """Add a variable to the inner optimizer's state."""
        return self._optimizer.add_variable(*args, **kwargs)

    def add_variable_from_reference(self, *args, **kwargs) -> tf.Variable:
        """Add a variable to the inner optimizer's state."""
        return self._optimizer.add_variable_from_reference(*args, **kwargs)

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


class VariableSelection:
    """Variables chosen by the user, and how a saved optimizer remembers them.

    Not a list or a dict on purpose: Keras and TensorFlow would save the chosen layers
    as parts of the optimizer.

    A saved selection holds positions among the trained variables or, from before the
    optimizer was built, names and shapes: Keras names the variables of a loaded
    `.keras` model anew, without their layer.
    """

    def __init__(self, argument: str, items):
        if isinstance(items, (str, tf.Variable, tf.Module)) or not isinstance(
            items, Iterable
        ):
            raise UserTypeError(
                f"`{argument}` must be a list or tuple of variables and layers",
                got=repr(items),
                fix=f"wrap it, {argument}=[...], or leave {argument}=[] empty",
            )
        self._argument = argument
        self._items = list(items)
        kinds = (tf.keras.layers.Layer, int, dict)
        for item in self._items:
            if not isinstance(item, kinds) and not is_variable(item):
                raise UserTypeError(
                    f"`{argument}` must hold variables or layers",
                    got=f"{item!r} of type {type(item).__name__}",
                    fix="pass for example model.get_layer('classifier')",
                )

    def variables_of(self, layer: tf.keras.layers.Layer) -> list[tf.Variable]:
        """What a layer stands for: its trainable variables."""
        return layer.trainable_variables

    def describe(self) -> list[list]:
        """Saved form before the optimizer is built, item by item."""
        return [
            [item]
            if isinstance(item, (int, dict))
            else [{"name": v.name, "shape": [*v.shape]} for v in self._variables(item)]
            for item in self._items
        ]

    def resolve(
        self, var_list: Sequence[tf.Variable], key_of: Callable
    ) -> list[list[tf.Variable]]:
        """The chosen variables, item by item.

        Args:
            var_list: The trained variables.
            key_of: Maps a variable to what tells it from others.

        Raises:
            UserError: If an item is of another model.
        """
        keys = {key_of(variable) for variable in var_list}

        def trained(item) -> list[tf.Variable]:
            # A layer may be frozen as a whole, or have no variables.
            chosen = [v for v in self._variables(item) if v.trainable]
            known = [v for v in chosen if key_of(v) in keys]
            if chosen and not known:
                is_layer = isinstance(item, tf.keras.layers.Layer)
                raise UserError(
                    f"`{self._argument}` must hold what is trained",
                    got=f"{'layer' if is_layer else 'variable'} {item.name!r}, which "
                    "is not among the trained ones",
                    fix="pass that of the model that is trained; what is frozen, as "
                    "a layer",
                )
            return known

        return [
            [self._find(item, var_list)]
            if isinstance(item, (int, dict))
            else trained(item)
            for item in self._items
        ]

    def _variables(self, item) -> list[tf.Variable]:
        if not isinstance(item, tf.keras.layers.Layer):
            return [item]
        if not item.built:
            raise UserError(
                f"`{self._argument}` must hold layers that have their variables",
                got=f"layer {item.name!r}, which has not been called yet",
                fix="pass a layer of the model that is trained, and build that first",
            )
        return self.variables_of(item)

    def _find(self, saved: int | dict, var_list: Sequence[tf.Variable]) -> tf.Variable:
        if isinstance(saved, int):
            matches = list(var_list[saved : saved + 1]) if saved >= 0 else []
        else:
            same = [v for v in var_list if list(v.shape) == list(saved["shape"])]
            matches = [v for v in same if v.name == saved["name"]] or [
                v for v in same if f"/{saved['name']}".endswith(f"/{v.name}")
            ]
        if len(matches) != 1:
            raise UserError(
                f"`{self._argument}` was saved with a variable that must be found "
                f"once among the {len(var_list)} trained ones",
                got=f"{saved!r}, found {len(matches)} times",
                fix="load the model with compile=False and compile it again; to save "
                "a model before its first training step, call "
                "optimizer.build(model.trainable_variables) first",
            )
        return matches[0]


class _Kernels(VariableSelection):
    """A layer stands for those of its variables that have the most axes."""

    def variables_of(self, layer):
        weights = super().variables_of(layer)
        rank = max((weight.shape.rank for weight in weights), default=0)
        return [weight for weight in weights if weight.shape.rank == rank]


class UnitAxes:
    """Which axes number the units of clipping, where it is not the last one.

    Args:
        units: Axes by layer and by `variable.ref()`, or pairs of both, as the saved
            form is.
    """

    def __init__(self, units):
        pairs = units.items() if isinstance(units, Mapping) else units
        try:
            pairs = [
                (key.deref() if hasattr(key, "deref") else key, _as_tuple(axes))
                for key, axes in pairs
            ]
        except (TypeError, ValueError) as error:
            raise UserTypeError(
                "`units` must map layers and variables to their units' axes",
                got=repr(units),
                fix="for example units={layer: -2, variable.ref(): (1, 2)}",
            ) from error
        self._axes = [axes for _, axes in pairs]
        self._selection = _Kernels("units", [item for item, _ in pairs])

    def describe(self) -> list[list]:
        """Saved form before the optimizer is built."""
        described = zip(self._selection.describe(), self._axes, strict=True)
        return [[item, [*axes]] for items, axes in described for item in items]

    def resolve(
        self, var_list: Sequence[tf.Variable], key_of: Callable
    ) -> list[tuple[tf.Variable, tuple[int, ...]]]:
        """The variables, and their axes counted from 0, as in `VariableSelection`.

        Raises:
            UserError: If a variable does not have the axes.
        """
        resolved = self._selection.resolve(var_list, key_of)
        return [
            (variable, _checked_axes(axes, variable))
            for variables, axes in zip(resolved, self._axes, strict=True)
            for variable in variables
        ]


def _as_tuple(axes) -> tuple[int, ...]:
    return tuple(map(index, axes if isinstance(axes, Iterable) else [axes]))


def _checked_axes(axes: tuple[int, ...], variable: tf.Variable) -> tuple[int, ...]:
    rank = variable.shape.rank
    is_known = all(-rank <= axis < rank for axis in axes)
    known = {axis % rank for axis in axes} if is_known else set()
    if len(known) != len(axes):
        raise UserError(
            "`units` must hold axes of the variable, each once",
            got=f"{axes} for {variable.name!r} of shape {tuple(variable.shape)}",
            fix="count them from 0, or from the end from -1",
        )
    return tuple(sorted(known))


def _check_optimizer(optimizer, wrapper: str) -> tf.keras.optimizers.Optimizer:
    if isinstance(optimizer, str):
        try:
            optimizer = tf.keras.optimizers.get(optimizer)
        except ValueError as error:
            raise UserError(
                "`optimizer` must be a tf.keras.optimizers.Optimizer or a name",
                got=repr(optimizer),
                fix="for example 'adam' or 'sgd'",
            ) from error
    elif isinstance(optimizer, dict):
        optimizer = tf.keras.optimizers.get(optimizer)
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        raise UserTypeError(
            f"{wrapper} must see unscaled gradients, so it goes inside the "
            "LossScaleOptimizer",
            got=type(optimizer).__name__,
            fix=f"LossScaleOptimizer({wrapper}(optimizer)), or leave it out: Keras "
            "adds it in `compile` under the policy mixed_float16",
        )
    if not isinstance(optimizer, tf.keras.optimizers.Optimizer):
        fix = "pass for example tf.keras.optimizers.Adam(5e-4)"
        if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
            fix = "use the class of the same name from tf.keras.optimizers"
            if not hasattr(tf.keras.optimizers, type(optimizer).__name__):
                fix = "use it by itself: it is of Keras's legacy kind, which computes "
                fix += f"no step that {wrapper} could change"
        raise UserTypeError(
            "`optimizer` must be a tf.keras.optimizers.Optimizer or a name",
            got=f"{type(optimizer).__module__}.{type(optimizer).__name__}",
            fix=fix,
        )
    # Keras accepts any learning rate, and only fails in the first step.
    _check_learning_rate(unchecked_learning_rate(optimizer))
    return optimizer


def _check_learning_rate(learning_rate) -> None:
    if isinstance(learning_rate, tf.keras.optimizers.schedules.LearningRateSchedule):
        return
    try:
        # A variable has no float() here: it may be distributed, or in a graph.
        if isinstance(learning_rate, tf.Variable):
            number = learning_rate.shape.rank == 0
        else:
            number = isfinite(float(learning_rate)) and not isinstance(
                learning_rate, (str, bytes, bool)
            )
    except (TypeError, ValueError):
        number = False
    if not number:
        raise UserTypeError(
            "`learning_rate` must be a finite number or a "
            "tf.keras.optimizers.schedules.LearningRateSchedule",
            got=repr(learning_rate),
            fix="for example 5e-4",
        )
