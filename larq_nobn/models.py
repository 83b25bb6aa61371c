"""A functional model whose residual units train in fewer passes over memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import tensorflow as tf

from larq_nobn import ops
from larq_nobn._keras2 import Call, arguments_of, calls_of, run_functional
from larq_nobn._registration import register
from larq_nobn.layers import LearnableBias, QuantConv2D, RPReLU, Scale, ScaledAdd


@register
class FusedModel(tf.keras.Model):
    """A functional model that is faster to train on CPUs, with the same results.

    Where a residual unit starts, with `RPReLU`, `Scale`, `LearnableBias` and the sign
    of a convolution, these layers are one function, `ops.residual_input`, and the
    factor of a `ScaledAdd` multiplies the kernel of the convolution in front of it.
    This is so in a graph that trains (`fit` and `train_on_batch`, or a call with
    `training=True` in a `tf.function`) and computes fast (`ops.using`); otherwise each
    layer computes by itself. So does a unit where the model's outputs have one of its
    tensors: gradients by that are of all that is computed from it. The networks of the
    zoo are of this class.

    Args:
        inputs: As in `tf.keras.Model`.
        outputs: As in `tf.keras.Model`.
        **kwargs: As in `tf.keras.Model`.

    Example:
        >>> image = tf.keras.Input((32, 32, 3))
        >>> model = FusedModel(image, my_layers(image))
    """

    def call(self, inputs, training=None, mask=None):
        """Run the network; the arguments are Keras's."""
        is_training = isinstance(training, bool | int) and bool(training)
        if not is_training or mask is not None or not ops.is_fast():
            return super().call(inputs, training=training, mask=mask)
        return run_functional(self, inputs, _Run(self.fusion_plan))

    @property
    def fusion_plan(self) -> "_Plan":
        """Which layers are one function."""
        if not hasattr(self, "_fusion"):
            # In a namespace, so that Keras does not track it as a sublayer.
            # Not made by a constructor: with one, Keras would not save the layers.
            self._fusion = SimpleNamespace(plan=_Plan.of(self))
        return self._fusion.plan


@dataclass(frozen=True, eq=False)
class _Unit:
    """What a residual unit starts with.

    Attributes:
        source: Keras tensor that the sign's chain starts from.
        activation: The RPReLU that makes it, if it is part of the function.
        factor: Of the `Scale` behind, 1 without one.
        shift: The `LearnableBias` behind, if any.
        convolutions: The convolutions of the signs.
    """

    source: tf.Tensor
    activation: Call | None
    factor: float
    shift: Call | None
    convolutions: list[Call]


@dataclass
class _Plan:
    """Which calls are parts of which function.

    Attributes:
        units: By the `id` of their sources.
        unit_of: The unit of each convolution of signs, by the `id` of its call's node.
        skipped: `id`s of nodes whose results nobody asks for.
        factors: α on the result of a convolution, by the `id` of its node.
        sums: `id`s of the nodes of these sums.
    """

    units: dict[int, _Unit] = field(default_factory=dict)
    unit_of: dict[int, _Unit] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    factors: dict[int, float] = field(default_factory=dict)
    sums: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, model: tf.keras.Model) -> "_Plan":
        """Find the units of a model."""
        graph, plan = _Graph(model), cls()
        found: dict[int, list[_Unit]] = {}
        for unit in _units(graph):
            found.setdefault(id(unit.source), []).append(unit)
        for units in found.values():
            # Not where several branches read a tensor: TensorFlow adds their gradients.
            if len(units) == 1:
                plan._add(units[0], graph)
        for call in graph.calls:
            plan._add_sum(call, graph)
        return plan

    def _add(self, unit: _Unit, graph: "_Graph") -> None:
        self.units[id(unit.source)] = unit
        self.unit_of |= {id(call.node): unit for call in unit.convolutions}
        parts = {id(call.node) for call in unit.convolutions}
        # Backwards: a part may be skipped if all its consumers are parts.
        tensor = unit.convolutions[0].inputs[0]
        while tensor is not unit.source:
            maker = graph.maker(tensor)
            if not all(id(r.node) in parts for r in graph.readers(tensor)):
                break
            parts.add(id(maker.node))
            self.skipped.add(id(maker.node))
            (tensor,) = maker.inputs

    def _add_sum(self, call: Call, graph: "_Graph") -> None:
        """Move α into the convolution in front, if nobody else reads that."""
        layer = call.layer
        if not _is_plain(call, ScaledAdd) or layer.alpha == 1:
            return
        maker = graph.maker(call.inputs[0])
        if maker is None or id(maker.node) not in self.unit_of:
            return
        is_only_reader = len(graph.readers(call.inputs[0])) == 1
        if is_only_reader and maker.layer.compute_dtype == layer.compute_dtype:
            self.factors[id(maker.node)] = layer.alpha
            self.sums.add(id(call.node))


class _Graph:
    """Who makes, and who reads, each Keras tensor of a model."""

    def __init__(self, model: tf.keras.Model):
        self.calls = list(calls_of(model))
        self._makers = {id(y): call for call in self.calls for y in call.outputs}
        self._readers: dict[int, list] = {}
        for call in self.calls:
            for x in call.inputs:
                self._readers.setdefault(id(x), []).append(call)
        for y in model.outputs:
            self._readers.setdefault(id(y), []).append(_OUTPUT)

    def maker(self, tensor: tf.Tensor) -> Call | None:
        """The call that makes a tensor; `None` for an input."""
        return self._makers.get(id(tensor))

    def readers(self, tensor: tf.Tensor) -> list[Call]:
        """The calls that read a tensor, a model's output among them."""
        return self._readers.get(id(tensor), [])

    def made_by(self, tensor: tf.Tensor, kind: type) -> Call | None:
        """The call of a layer of exactly this kind that makes a tensor, if one does."""
        call = self.maker(tensor)
        return call if call is not None and _is_plain(call, kind) else None


_OUTPUT = Call(None, None, (), ())


def _is_plain(call: Call, kind: type) -> bool:
    """Whether a layer is of this class, not of a user's subclass, and does no more."""
    return type(call.layer) is kind and call.layer.activity_regularizer is None


def _units(graph: _Graph) -> Iterator[_Unit]:
    done = set()
    for call in graph.calls:
        if not _convolves_signs(call) or id(call.inputs[0]) in done:
            continue
        tensor = call.inputs[0]
        readers = graph.readers(tensor)
        alike = [r for r in readers if _convolves_signs(r) and _is_alike(r, call)]
        done.add(id(tensor))
        chain = [tensor]
        shift = graph.made_by(tensor, LearnableBias)
        if shift:
            (tensor,) = shift.inputs
            chain.append(tensor)
        scale = graph.made_by(tensor, Scale)
        factor = scale.layer.factor if scale else 1.0
        if scale:
            (tensor,) = scale.inputs
            chain.append(tensor)
        # The gradient by a tensor inside the chain would lack the sign's part.
        if factor == 0 or any(_OUTPUT in graph.readers(x) for x in chain):
            continue
        activation = graph.made_by(tensor, RPReLU)
        parts = [c.layer.compute_dtype for c in (shift, scale, activation) if c]
        if {*parts, tensor.dtype.name} == {call.layer.compute_dtype}:
            yield _Unit(tensor, activation, factor, shift, alike)


def _convolves_signs(call: Call) -> bool:
    return isinstance(call.layer, QuantConv2D) and call.layer.can_convolve_signs


def _is_alike(one: Call, other: Call) -> bool:
    return (
        one.layer.input_quantizer.surrogate == other.layer.input_quantizer.surrogate
        and one.layer.compute_dtype == other.layer.compute_dtype
    )


class _Run:
    """One run of a network: computes each call."""

    def __init__(self, plan: _Plan):
        self.plan = plan
        self.signs: dict[int, tuple] = {}

    def __call__(self, call: Call, tensors: dict):
        """Compute a call's outputs."""
        plan, node = self.plan, id(call.node)
        self._start_units(call.inputs, tensors)
        if node in plan.skipped:
            return None
        if node in plan.unit_of:
            signs, recompute = self.signs[id(plan.unit_of[node].source)]
            factor = plan.factors.get(node, 1.0)
            return call.layer.convolve_signs(signs, factor, recompute)
        if node in plan.sums:
            residual, shortcut = (tensors[id(x)] for x in call.inputs)
            return ops.scaled_add(residual, tf.cast(shortcut, residual.dtype), 1.0)
        unit = plan.units.get(id(call.outputs[0]))
        if unit and unit.activation and unit.activation.node is call.node:
            return self._start(unit, tensors[id(call.inputs[0])])
        args, kwargs = arguments_of(call, tensors)
        return call.layer(*args, **kwargs)

    def _start_units(self, sources: tuple, tensors: dict) -> None:
        """Start the units without an activation, where their source is first read."""
        for source in sources:
            unit = self.plan.units.get(id(source))
            if unit and id(source) not in self.signs:
                tensors[id(source)] = self._start(unit, tensors[id(source)])

    def _start(self, unit: _Unit, x: tf.Tensor) -> tf.Tensor:
        """Compute a unit's signs and return its shortcut."""
        quantizer = unit.convolutions[0].layer.input_quantizer
        dtype = unit.convolutions[0].layer.compute_dtype

        def as_computed(weights):
            return [tf.cast(tf.convert_to_tensor(w), dtype) for w in weights]

        layer = unit.activation.layer if unit.activation else None
        weights = (layer.bias_in, layer.negative_slope, layer.bias_out) if layer else ()
        activation = as_computed(weights)
        (bias,) = as_computed([unit.shift.layer.bias]) if unit.shift else (None,)
        # Images come in their own dtype.
        chain = (tf.cast(x, dtype), activation, unit.factor, bias)
        signs, shortcut = ops.residual_input(*chain, *quantizer.surrogate)
        # Half-precision signs take half the bytes, so keep them.
        recompute = None if signs.dtype.size < 4 else ops.signs_of(*chain)
        self.signs[id(unit.source)] = (signs, recompute)
        return shortcut
