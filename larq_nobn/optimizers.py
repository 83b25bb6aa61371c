"""Optimizers around an optimizer, which change the gradients; and a faster Adam."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import prod
from types import SimpleNamespace

import tensorflow as tf

from larq_nobn._errors import UserError, check_number
from larq_nobn._keras2 import moments_of
from larq_nobn._registration import register
from larq_nobn._wrapping import GradientTransformation, UnitAxes, VariableSelection
from larq_nobn.ops import agc_scale
from larq_nobn.ops.fusion import traced_once

# Variables, or layers, which stand for their trainable variables.
Selection = Sequence["tf.Variable | tf.keras.layers.Layer"]
# Axes by layer or by `variable.ref()`: variables are not hashable.
Units = Mapping[object, "int | Sequence[int]"] | Sequence[tuple]


@register
class AdaptiveGradientClipping(GradientTransformation):
    r"""Clip each unit's gradient to a fraction of its weights' norm, then optimize.

    "High-performance large-scale image recognition without normalization" (arXiv
    2102.06171), equation 3; "BNN - BN = ?" (arXiv 2104.08215), Section 3.3:

    \\[ G_i \leftarrow \lambda \frac{\max(\|W_i\|, \epsilon)}{\|G_i\|} G_i
    \quad\text{where}\quad \|G_i\| \ge \lambda \max(\|W_i\|, \epsilon) \\]

    A unit is an output channel (the last axis) for variables of rank 2 and more, and
    the whole variable for rank 0 and 1. A weight that Keras calls `depthwise_kernel`
    has one per channel and multiplier (the last two axes), with a filter each. `units`
    says it for other layouts: the output channels of a transposed convolution are its
    last axis but one. Clipping comes before everything that the inner optimizer does to
    gradients, its own `clipnorm` included. A Keras optimizer itself: use it in
    `compile`, with learning-rate callbacks, mixed precision, `tf.distribute` and XLA;
    models save and load with it.

    Args:
        optimizer: Any `tf.keras.optimizers.Optimizer`, or its name.
        clip_factor: \\(\lambda\\); 0.02 in the paper's ImageNet training.
        eps: \\(\epsilon\\), so that zero-initialized weights can move.
        exclude: Variables, or layers for all of their variables, that are not clipped.
            The papers leave out the final classifier.
        units: The axes whose indices number the units, by layer or `variable.ref()`:
            `{transposed: -2, einsum_dense.kernel.ref(): (1, 2)}`; `()` makes one unit
            of a variable. A layer stands for its kernels, the variables with the most
            axes.
        track_clipping: Count how much is clipped; see `clipping_report` and
            `larq_nobn.callbacks.ClippingReport`.
        name: Name of the optimizer.

    Raises:
        ValueError: If `clip_factor` or `eps` is not positive; in the first step, if
            `exclude` or `units` hold something of another model.
        TypeError: If `optimizer` is of the wrong kind, or `exclude` or `units` hold
            something other than variables and layers.

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
        units: Units = (),
        track_clipping: bool = False,
        name: str = "adaptive_gradient_clipping",
    ):
        check_number("clip_factor", clip_factor, "0.02 is the paper's choice")
        check_number("eps", eps, "1e-3 is the papers' choice")
        self.clip_factor = float(clip_factor)
        self.eps = float(eps)
        self.track_clipping = bool(track_clipping)
        super().__init__(optimizer, name)
        self._exclude = VariableSelection("exclude", exclude)
        self._units = UnitAxes(units)
        # In a namespace, so that Keras does not save it with the optimizer.
        self._clipped = SimpleNamespace(counters={})

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Create the inner state, and find the excluded variables and the units."""
        if self.is_built:
            return
        excluded = [*chain(*self._exclude.resolve(var_list, self.key_of))]
        chosen = self._units.resolve(var_list, self.key_of)
        super().build(var_list)
        self._excluded_keys = {self.key_of(variable) for variable in excluded}
        self._excluded_positions = self._positions(excluded)
        # In a namespace as well.
        self._found = SimpleNamespace(
            positions=[[self.index_of(v), [*axes]] for v, axes in chosen],
            axes={self.key_of(v): _axes_of_depthwise(v) for v in var_list}
            | {self.key_of(v): axes for v, axes in chosen},
        )
        if self.track_clipping:
            # ON_READ: each replica counts by itself, with no communication in the step.
            for variable in var_list:
                key = self.key_of(variable)
                if key not in self._excluded_keys:
                    counter = tf.Variable(
                        tf.zeros(3),
                        trainable=False,
                        synchronization=tf.VariableSynchronization.ON_READ,
                        aggregation=tf.VariableAggregation.MEAN,
                        name=f"{self.name}/clipped",
                    )
                    self._clipped.counters[key] = (variable, counter)

    def transform(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Clip one gradient."""
        if self.key_of(variable) in self._excluded_keys:
            return gradient
        units = self._found.axes[self.key_of(variable)]
        clipped, scale = self._clip(gradient, tf.convert_to_tensor(variable), units)
        if self.track_clipping:
            self._count(scale, variable)
        return clipped

    def transform_all(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable]
    ) -> list[tf.Tensor]:
        """Clip the gradients, those of small variables together.

        A network has hundreds of them, and each operator costs microseconds.
        """
        results = list(gradients)
        alike = defaultdict(list)
        for i, variable in enumerate(variables):
            key = self.key_of(variable)
            if key in self._excluded_keys:
                continue
            if _is_small(variable.shape) and self._found.axes[key] is None:
                dtypes = gradients[i].dtype, variable.dtype
                alike[dtypes, _joint_shape(variable.shape)].append(i)
            else:
                results[i] = self.transform(gradients[i], variable)
        for indices in alike.values():
            some = [variables[i] for i in indices]
            shapes = [variable.shape for variable in some]
            gradient = _join([gradients[i] for i in indices])
            parameter = _join([tf.convert_to_tensor(variable) for variable in some])
            clipped, scale = self._clip(gradient, parameter)
            if self.track_clipping:
                for one, variable in zip(_part(scale, shapes), some, strict=True):
                    self._count(one, variable)
            for i, one in zip(indices, _part(clipped, shapes), strict=True):
                results[i] = _with_shape(one, variables[i].shape)
        return results

    def _clip(
        self,
        gradient: tf.Tensor,
        parameter: tf.Tensor,
        units: Sequence[int] | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The clipped gradient, and the factor on each of its units."""
        scale = agc_scale(gradient, parameter, self.clip_factor, self.eps, units)
        return gradient * tf.cast(scale, gradient.dtype), scale

    def _count(self, scale: tf.Tensor, variable: tf.Variable) -> None:
        counted = tf.cast(scale, tf.float32)
        clipped = tf.reduce_mean(tf.cast(counted < 1, tf.float32))
        _, counter = self._clipped.counters[self.key_of(variable)]
        counter.assign_add(tf.stack([clipped, tf.reduce_mean(counted), 1.0]))

    def clipping_report(self, reset: bool = False) -> dict[str, dict[str, float]]:
        """How much was clipped since the last reset, variable by variable.

        Args:
            reset: Whether to start counting anew.

        Returns:
            For each clipped variable's name `{"fraction": ..., "scale": ...}`: the
            fraction of its units that were clipped, and the mean factor on its
            gradients (1 is untouched), both averaged over the steps. A name that occurs
            twice, as in models loaded from `.keras` files, ends in the variable's
            number among the trained ones.

        Raises:
            ValueError: If the optimizer was made without `track_clipping=True`.
        """
        report = {}
        for variable, fraction, scale in self._read_clipping(reset):
            name = variable.name
            if name in report:
                name = f"{name} ({self.index_of(variable)})"
            report[name] = {"fraction": fraction, "scale": scale}
        return report

    def layer_clipping_report(
        self, model: tf.keras.Model, reset: bool = False
    ) -> dict[str, float]:
        """How much was clipped since the last reset, layer by layer.

        Args:
            model: The model that is trained.
            reset: Whether to start counting anew.

        Returns:
            For the name of each layer with clipped variables the fraction of its units
            that were clipped, averaged over the steps.

        Raises:
            ValueError: If the optimizer was made without `track_clipping=True`.
        """
        counted = self._read_clipping(reset)
        fractions = {self.key_of(v): fraction for v, fraction, _ in counted}
        report = {}
        for layer in _layers(model):
            variables = {self.key_of(v): v for v in layer.trainable_variables}
            units = {
                key: self._count_units(variable)
                for key, variable in variables.items()
                if key in fractions
            }
            if units:
                clipped = sum(units[key] * fractions[key] for key in units)
                report[layer.name] = clipped / sum(units.values())
        return report

    def _count_units(self, variable: tf.Variable) -> int:
        shape = variable.shape
        axes = self._found.axes[self.key_of(variable)]
        if axes is None:
            axes = (shape.rank - 1,) if shape.rank > 1 else ()
        return prod(shape[axis] for axis in axes)

    def _read_clipping(self, reset: bool) -> list[tuple[tf.Variable, float, float]]:
        """Variable, fraction and scale; where no step was taken nothing was clipped."""
        if not self.track_clipping:
            raise UserError(
                "Clipping is counted only on request",
                got="track_clipping=False",
                fix="AdaptiveGradientClipping(..., track_clipping=True)",
            )
        counted = []
        for variable, counter in self._clipped.counters.values():
            fraction, scale, steps = counter.numpy().tolist()
            mean = (fraction / steps, scale / steps) if steps else (0.0, 1.0)
            counted.append((variable, *mean))
            if reset:
                counter.assign(tf.zeros(3))
        return counted

    def get_config(self) -> dict:
        """Return the constructor's arguments, the selection in its saved form."""
        if self.is_built:
            exclude, units = list(self._excluded_positions), self._found.positions
        else:
            exclude = [*chain(*self._exclude.describe())]
            units = self._units.describe()
        return {
            **super().get_config(),
            "clip_factor": self.clip_factor,
            "eps": self.eps,
            "exclude": exclude,
            "units": units,
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
        check_number("weight_decay", weight_decay, "1e-5 is the paper's", zero=True)
        decayed = VariableSelection("variables", variables)
        # `weight_decay` is the inner optimizer's, which is decoupled.
        self.coupled_weight_decay = float(weight_decay)
        super().__init__(optimizer, name)
        self._decayed = decayed

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Create the inner state and find the decayed variables."""
        if self.is_built:
            return
        decayed = [*chain(*self._decayed.resolve(var_list, self.key_of))]
        super().build(var_list)
        self._decayed_keys = {self.key_of(variable) for variable in decayed}
        self._decayed_positions = self._positions(decayed)

    def transform(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Add the decay to one gradient."""
        if self.key_of(variable) not in self._decayed_keys:
            return gradient
        # Not tf.cast of the Python number, which would round it to float32.
        decay = tf.constant(self.coupled_weight_decay, gradient.dtype)
        return gradient + decay * tf.cast(variable, gradient.dtype)

    def get_config(self) -> dict:
        """Return the constructor's arguments, the selection in its saved form."""
        if self.is_built:
            variables = list(self._decayed_positions)
        else:
            variables = [*chain(*self._decayed.describe())]
        return {
            **super().get_config(),
            "weight_decay": self.coupled_weight_decay,
            "variables": variables,
        }


@register
class FusedAdam(tf.keras.optimizers.Adam):
    """Keras's Adam, each variable updated by one operator instead of thirty.

    Formula, state and arguments are those of `tf.keras.optimizers.Adam`, and so are the
    results, but for the rounding of 1 - β₂ (5e-5 of it in float32). A step goes through
    memory once, and a network with hundreds of variables compiles faster. Sparse
    gradients and `amsgrad` are left to Keras.

    Args:
        learning_rate: Number or schedule.
        **kwargs: As in `tf.keras.optimizers.Adam`.

    Example:
        >>> optimizer = AdaptiveGradientClipping(FusedAdam(5e-4))
    """

    def __init__(self, learning_rate=0.001, **kwargs):
        super().__init__(learning_rate, **kwargs)
        # State of the current update only, in a namespace so that it is not saved.
        self._applied = SimpleNamespace(scalars=None)

    def apply_gradients(self, *args, **kwargs):
        """Update all variables, with scalars that are computed once."""
        # A compiled update is a separate function, which outlives this graph.
        self._applied.scalars = None if self.jit_compile else {}
        try:
            return super().apply_gradients(*args, **kwargs)
        finally:
            self._applied.scalars = None

    def update_step(self, gradient, variable: tf.Variable) -> None:
        """Update one variable."""
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        first, second = moments_of(self, variable)
        dtype = variable.dtype
        known = {} if self._applied.scalars is None else self._applied.scalars
        if dtype not in known:
            known[dtype] = _adam_scalars(
                tf.convert_to_tensor(self.learning_rate),
                tf.convert_to_tensor(self.iterations),
                *map(float, (self.beta_1, self.beta_2, self.epsilon)),
                dtype,
            )
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            grad=tf.cast(gradient, dtype),
            **known[dtype],
        )


@traced_once
def _adam_scalars(learning_rate, iterations, beta_1, beta_2, epsilon, dtype):
    """The scalar arguments of `ResourceApplyAdam`."""
    step = tf.cast(iterations + 1, dtype)
    numbers = {"beta1": beta_1, "beta2": beta_2, "epsilon": epsilon}
    return {name: tf.constant(number, dtype) for name, number in numbers.items()} | {
        # Keras casts these by way of float32.
        "beta1_power": tf.pow(tf.cast(beta_1, dtype), step),
        "beta2_power": tf.pow(tf.cast(beta_2, dtype), step),
        "lr": tf.cast(learning_rate, dtype),
    }


def _axes_of_depthwise(variable: tf.Variable) -> tuple[int, int] | None:
    """The units of a kernel that has a filter per channel and multiplier."""
    if variable.name.split("/")[-1].split(":")[0] != "depthwise_kernel":
        return None
    return variable.shape.rank - 2, variable.shape.rank - 1


def _is_small(shape: tf.TensorShape) -> bool:
    """Whether it is one unit of clipping, or one number per unit."""
    return shape.rank < 2 or shape[:-1].num_elements() == 1


def _joint_shape(shape: tf.TensorShape) -> tuple[int, ...]:
    """What small variables must have in common so that they can be joined."""
    return (shape.num_elements(),) if shape.rank < 2 else (*shape[:-1], 0)


def _join(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Make many small tensors one whose units of clipping are theirs."""
    if tensors[0].shape.rank < 2:
        # The units of a matrix are its columns.
        return tf.stack([_with_shape(x, [x.shape.num_elements()]) for x in tensors], -1)
    return tf.concat(tensors, axis=-1)


def _with_shape(x: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    return x if x.shape == shape else tf.reshape(x, shape)


def _part(joined: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> list[tf.Tensor]:
    """Undo `_join`, of it or of one number per unit."""
    if shapes[0].rank < 2:
        return tf.unstack(joined, axis=-1)
    return tf.split(joined, [shape[-1] for shape in shapes], axis=-1)


def _layers(model: tf.keras.Model) -> Iterator[tf.keras.layers.Layer]:
    """A model's layers, those of models inside it included."""
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            yield from _layers(layer)
        else:
            yield layer
