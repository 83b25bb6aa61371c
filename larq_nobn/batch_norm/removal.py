"""The normalizer-free twin of a network with batch norm."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import larq as lq
import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, check_number, one_of
from larq_nobn._keras2 import with_sublayers
from larq_nobn.batch_norm.graph import (
    Call,
    Graph,
    Value,
    apply,
    channel_moments,
    clone,
    copy_weights,
    is_batch_norm,
    normalizes_channels,
    part,
)
from larq_nobn.constraints import ScaledWeightStandardization
from larq_nobn.layers import (
    LearnableBias,
    QuantConv2D,
    Scale,
    ScaledAdd,
    ScaledWSConv2D,
)

keras = tf.keras.layers

# Exact classes: a subclass may compute something different.
_CONVOLUTIONS = (keras.Conv2D, lq.layers.QuantConv2D, QuantConv2D)

# Layers that keep their class, with a constraint: the constraint's argument, and the
# axes of one unit (by default all but the last).
_CONSTRAINED = {
    keras.DepthwiseConv2D: ("depthwise_constraint", (0, 1)),
    lq.layers.QuantDepthwiseConv2D: ("depthwise_constraint", (0, 1)),
    keras.Conv2DTranspose: ("kernel_constraint", (0, 1, 3)),
    lq.layers.QuantConv2DTranspose: ("kernel_constraint", (0, 1, 3)),
    keras.Conv1D: ("kernel_constraint", None),
    lq.layers.QuantConv1D: ("kernel_constraint", None),
    keras.Conv3D: ("kernel_constraint", None),
    lq.layers.QuantConv3D: ("kernel_constraint", None),
    keras.Dense: ("kernel_constraint", None),
    lq.layers.QuantDense: ("kernel_constraint", None),
}
_DENSE = (keras.Dense, lq.layers.QuantDense)

# A measured standard deviation this near to 1 is left alone: that of a random network
# differs from its expected value by as much.
_TOLERANCE = 0.1


@dataclass(frozen=True)
class Change:
    """What became of one layer.

    Attributes:
        layer: The layer's name.
        before: Its class.
        after: What is in its place.
        problem: Why it could not be translated; empty if it could.
    """

    layer: str
    before: str
    after: str
    problem: str = ""


def remove_batch_norm(
    model: tf.keras.Model,
    *,
    norm: str = "free",
    alpha: float = 0.2,
    images: np.ndarray | None = None,
    allow_untranslated: bool = False,
) -> tf.keras.Model:
    r"""Make the normalizer-free twin of a network with batch norm, to be trained.

    By the rules of "BNN - BN = ?" (arXiv 2104.08215, Section 3), with every variance
    measured on the twin itself while it is built, layer by layer:

    - Each convolution becomes a `ScaledWSConv2D`; a binary kernel quantizer becomes
      `"scaled_sign"`, and a kernel's constraint goes. Its γ, the factor for the
      nonlinearity in front, brings the output to unit variance; 1 behind a sign.
      Depthwise convolutions, and dense layers in front of a batch norm, get the
      constraint `ScaledWeightStandardization`.
    - A residual addition becomes \\(\alpha f + r\\), with \\(f\\) at unit variance;
      both the branch and a convolution on its shortcut read \\(\beta x\\),
      \\(\beta\\) the inverse standard deviation of the block's input \\(x\\).
    - A batch norm becomes a `LearnableBias`, which starts by removing the mean where
      there is one, behind a `Scale` where the variance is not 1 already.
    - Frozen layers, and all others, stay as they are. Weights are copied, so that a
      trained network's kernels are where the twin starts.

    Args:
        model: A functional model with batch norm.
        norm: `"free"`, or `"none"` for the network with batch norm merely deleted.
        alpha: Factor on the residual branches.
        images: Preprocessed images of shape `(batch, height, width, channels)` to
            measure on, some 16 to 64; by default noise of unit variance.
        allow_untranslated: Leave what cannot be translated as it is and warn, instead
            of failing.

    Returns:
        A new model; the given one stays as it is.

    Raises:
        UserError: If the model is not functional, has no batch norm, or has layers that
            cannot be translated (all are listed); or if an argument is wrong.

    Example:
        >>> twin = remove_batch_norm(larq_zoo.literature.BiRealNet(weights=None))
    """
    removal = _Removal(model, norm, alpha, images)
    twin = removal.run()
    problems = [change for change in removal.changes if change.problem]
    if problems and not allow_untranslated:
        listed = "; ".join(f"{x.layer} ({x.before}): {x.problem}" for x in problems)
        raise UserError(
            f"Every layer of {model.name} must have a normalizer-free form",
            got=listed,
            fix="change these layers, or leave them as they are by "
            "allow_untranslated=True",
        )
    for change in problems:
        warnings.warn(
            f"Layer {change.layer!r} stays {change.after}: {change.problem}.",
            stacklevel=2,
        )
    return twin


def describe_removal(
    model: tf.keras.Model,
    *,
    norm: str = "free",
    alpha: float = 0.2,
    images: np.ndarray | None = None,
) -> list[Change]:
    """List what `remove_batch_norm` makes of each layer that it changes.

    Takes the arguments of `remove_batch_norm`, and also lists what it fails on.

    Raises:
        UserError: If the model is not functional or has no batch norm, or an argument
            is wrong.
    """
    removal = _Removal(model, norm, alpha, images)
    removal.run()
    return removal.changes


class _Removal:
    """One translation: walks the network, and carries example activations along."""

    def __init__(self, model, norm, alpha, images):
        one_of("norm", norm, ("free", "none"))
        check_number("alpha", alpha, "0.2 is the paper's value")
        self.graph = Graph(model)
        self.free = norm == "free"
        self.alpha = float(alpha)
        self.images = _examples(model, images)
        self.changes: list[Change] = []
        self.layers: dict[object, keras.Layer] = {}
        self.betas: dict[Value, Value] = {}
        norms = [x for call in self.graph.calls for x in _norms_inside(call.layer)]
        if not norms:
            raise UserError(
                "`model` must have batch norm",
                got=f"{model.name} without any",
                fix="use it as it is; larq_nobn.layers standardize a network's "
                "convolutions by hand",
            )
        # Merge -> which of its two inputs is the residual branch.
        self.branches: dict[Call, int] = {}
        # (call, id of a tensor that it reads): edges into residual branches.
        self.scaled_edges: set[tuple[Call, int]] = set()
        if self.free:
            self._find_branches()

    def run(self) -> tf.keras.Model:
        name = f"{self.graph.model.name}_{'free' if self.free else 'none'}"
        return self.graph.rebuild(self._translate, name, self.images)

    def _find_branches(self) -> None:
        above = self.graph.above()
        for call in self.graph.calls:
            if len(call.inputs) != 2 or isinstance(call.layer, keras.Concatenate):
                continue
            first, second = (above[id(x)] for x in call.inputs)
            sides = (first - second, second - first)
            work = [_work(side) for side in sides]
            if work[0] == work[1]:
                self.branches[call] = -1  # it shows when the merge is an addition
                continue
            self.branches[call] = int(work[1] > work[0])
            for side in sides:
                inside = {id(x) for other in side for x in other.outputs}
                self.scaled_edges.update(
                    (other, id(x))
                    for other in side
                    for x in other.inputs
                    if id(x) not in inside
                )

    def _translate(self, call: Call, args, kwargs):
        layer = call.layer
        if problem := self._problem(call):
            self._note(call, f"as it is ({type(layer).__qualname__})", problem)
            return self._keep(call, args, kwargs)
        if is_batch_norm(layer):
            return self._replace_norm(call, args[0])
        if not self.free:
            return self._keep(call, args, kwargs)
        if call in self.branches and self._adds(call, args, kwargs):
            return self._join(call, args, kwargs)
        args, kwargs = self._scale_inputs(call, args, kwargs)
        if type(layer) in _CONVOLUTIONS and layer.trainable:
            return self._standardize(call, *args, **kwargs)
        if type(layer) in _CONSTRAINED and layer.trainable:
            is_dense = isinstance(layer, _DENSE)
            if not is_dense or self._feeds_norm(call):
                return self._constrain(call, *args, **kwargs)
        return self._keep(call, args, kwargs)

    def _problem(self, call: Call) -> str:
        layer = call.layer
        if is_batch_norm(layer):
            if self.graph.times(layer) > 1:
                return "shared: it normalizes several tensors by one set of weights"
            if not normalizes_channels(layer, call.inputs[0].shape):
                return f"it normalizes axis {layer.axis}, not the last"
        elif any(_norms_inside(layer)):
            return "batch norm inside of it; call its layers in the model itself"
        elif type(layer) in _CONVOLUTIONS and self.free:
            if self.graph.times(layer) > 1:
                return "shared: its calls have no common γ"
            if layer.data_format != "channels_last":
                return "channels first"
        return ""

    def _keep(self, call: Call, args, kwargs):
        layer = call.layer
        if layer in self.layers:
            return apply(self.layers[layer], *args, **kwargs)
        self.layers[layer] = new = clone(layer)
        # Called on Keras tensors first: it has no weights before it is built.
        without = tf.nest.map_structure(
            lambda x: Value(x.tensor) if isinstance(x, Value) else x, (args, kwargs)
        )
        output = apply(new, *without[0], **without[1])
        copy_weights(layer, new)
        examples = new(*part("example", args), **part("example", kwargs))
        return tf.nest.map_structure(
            lambda value, example: Value(value.tensor, example), output, examples
        )

    def _note(self, call: Call, after: str, problem: str = "") -> None:
        change = Change(call.layer.name, type(call.layer).__qualname__, after, problem)
        if change not in self.changes:  # a shared layer is met once per call
            self.changes.append(change)

    def _replace_norm(self, call: Call, x: Value) -> Value:
        layer = call.layer
        if not self.free:
            self._note(call, "nothing")
            return x
        ((x,), _) = self._scale_inputs(call, (x,), {})
        after = []
        _, deviation = channel_moments(x.example)
        if _off(deviation):
            x = apply(Scale(1 / deviation, name=f"{layer.name}_scale"), x)
            after.append(f"Scale({1 / deviation:.3g})")
        mean, deviation = channel_moments(x.example)
        is_centred = np.sqrt(np.mean(mean**2)) <= _TOLERANCE * max(deviation, 1e-12)
        if layer.center or not is_centred:
            shift = LearnableBias(name=f"{layer.name}_shift", trainable=layer.trainable)
            shift.build(x.tensor.shape)
            if not is_centred:
                shift.set_weights([-mean])
            x = apply(shift, x)
            after.append("LearnableBias" + ("" if is_centred else " (minus the mean)"))
        self._note(call, " + ".join(after) or "nothing")
        return x

    def _standardize(self, call: Call, x: Value) -> Value:
        layer = call.layer
        config = layer.get_config()
        quantizer = getattr(layer, "kernel_quantizer", None)
        if getattr(quantizer, "precision", 32) == 1:
            quantizer = "scaled_sign"
        # A scale-free kernel needs no constraint.
        replaced = {"kernel_constraint", "kernel_quantizer", "input_quantizer"}
        new = ScaledWSConv2D(
            kernel_quantizer=quantizer,
            input_quantizer=getattr(layer, "input_quantizer", None),
            **{key: value for key, value in config.items() if key not in replaced},
        )
        new.build(x.tensor.shape)
        weights = {"kernel": layer.kernel}
        if layer.use_bias:
            weights["bias"] = layer.bias
        for name, weight in weights.items():
            getattr(new, name).assign(weight)
        if layer.activation in (None, tf.keras.activations.linear):
            _, deviation = channel_moments(new(x.example))
            if _off(deviation):
                new.gamma = 1 / deviation
        self._note(call, f"ScaledWSConv2D(gamma={new.gamma:.3g})")
        return apply(new, x)

    def _constrain(self, call: Call, *args, **kwargs):
        layer = call.layer
        name, axis = _CONSTRAINED[type(layer)]
        constraint = ScaledWeightStandardization(axis=axis)
        if layer not in self.layers:
            config = layer.get_config()
            config[name] = constraint
            self.layers[layer] = new = type(layer).from_config(config)
            new.build(args[0].tensor.shape)
            copy_weights(layer, new)
            # As the constraint does after every update.
            for weight in new.trainable_weights:
                if weight.constraint is not None:
                    weight.assign(weight.constraint(weight))
            name = type(layer).__qualname__
            self._note(call, f"{name} with ScaledWeightStandardization")
        return apply(self.layers[layer], *args, **kwargs)

    def _adds(self, call: Call, args, kwargs) -> bool:
        """Whether a merge is a sum of its inputs, found by trying."""
        first, second = (
            x.example for x in tf.nest.flatten((args, kwargs)) if isinstance(x, Value)
        )
        if first.shape.rank is None or first.dtype != second.dtype:
            return False

        def merge(a, b):
            replacements = iter((a, b))
            new_args, new_kwargs = tf.nest.map_structure(
                lambda x: next(replacements) if isinstance(x, Value) else x,
                (args, kwargs),
            )
            return call.layer(*new_args, **new_kwargs)

        both = merge(first, second)
        if tf.is_tensor(both) and both.shape in (first.shape, second.shape):
            apart = merge(first, tf.zeros_like(second)) + merge(
                tf.zeros_like(first), second
            )
            largest = tf.reduce_max(tf.abs(both)) + 1e-12
            error = tf.reduce_max(tf.abs(both - apart))
            moves = tf.reduce_any(tf.not_equal(both, merge(first, 2 * second)))
            return bool(error < 1e-3 * largest) and bool(moves)
        return False

    def _join(self, call: Call, args, kwargs):
        index = self.branches[call]
        if index < 0:
            self._note(
                call,
                f"as it is ({type(call.layer).__qualname__})",
                "both sides alike: which is the shortcut cannot be told",
            )
            return self._keep(call, args, kwargs)
        values = [x for x in tf.nest.flatten((args, kwargs)) if isinstance(x, Value)]
        branch, shortcut = values[index], values[1 - index]
        _, deviation = channel_moments(branch.example)
        alpha = self.alpha / deviation if _off(deviation) else self.alpha
        name = call.layer.name.replace("/", "_")
        is_plain = branch.tensor.shape == shortcut.tensor.shape
        if is_plain and _is_addition(call.layer):
            self._note(call, f"ScaledAdd({alpha:.3g})")
            return apply(ScaledAdd(alpha, name=name), [branch, shortcut])
        # A special addition, e.g. onto fewer channels: scale the branch beforehand.
        scaled = apply(Scale(alpha, name=f"{name}_alpha"), branch)
        self._note(call, f"Scale({alpha:.3g}) in front")
        swap = {id(branch): scaled}
        args, kwargs = tf.nest.map_structure(
            lambda x: swap.get(id(x), x), (args, kwargs)
        )
        return self._keep(call, args, kwargs)

    def _scale_inputs(self, call: Call, args, kwargs):
        """Replace inputs that begin a residual branch by β times them."""
        edges = [x for x in call.inputs if (call, id(x)) in self.scaled_edges]
        if not edges:
            return args, kwargs
        positions = [i for i, x in enumerate(call.inputs) if any(x is e for e in edges)]
        count = iter(range(len(call.inputs)))
        return tf.nest.map_structure(
            lambda x: (
                (self._beta(x, call) if next(count) in positions else x)
                if isinstance(x, Value)
                else x
            ),
            (args, kwargs),
        )

    def _beta(self, x: Value, call: Call) -> Value:
        if x not in self.betas:
            _, deviation = channel_moments(x.example)
            is_unit = abs(deviation - 1) < 0.01 or deviation < 1e-6
            beta = Scale(1 / max(deviation, 1e-6), name=f"{call.layer.name}_beta")
            self.betas[x] = x if is_unit else apply(beta, x)
        return self.betas[x]

    def _feeds_norm(self, call: Call) -> bool:
        reader = self.graph.only_reader(call)
        return reader is not None and is_batch_norm(reader.layer)


def _examples(model: tf.keras.Model, images) -> list[tf.Tensor]:
    """What to measure on, one tensor per input of the model."""
    if images is not None:
        shapes = [tuple(x.shape[1:]) for x in model.inputs]
        images = images if isinstance(images, list | tuple) else [images]
        examples = [tf.convert_to_tensor(x) for x in images]
        fits = len(examples) == len(shapes) and all(
            len(x.shape) == len(shape) + 1
            and all(b in (None, a) for a, b in zip(x.shape[1:], shape, strict=True))
            for x, shape in zip(examples, shapes, strict=True)
        )
        if not fits or not all(len(x) for x in examples):
            received = ", ".join(str(tuple(x.shape)) for x in examples)
            raise UserError(
                f"`images` must be a batch for the model's input, {shapes}",
                got=f"shape {received}",
                fix="preprocess images as for model.fit",
            )
        return [
            tf.cast(x, y.dtype) for x, y in zip(examples, model.inputs, strict=True)
        ]
    generator = np.random.default_rng(0)
    return [
        tf.cast(
            generator.standard_normal(
                (16, *(32 if size is None else size for size in x.shape[1:]))
            ),
            x.dtype,
        )
        for x in model.inputs
    ]


def _norms_inside(layer: keras.Layer) -> Iterator[keras.Layer]:
    return filter(is_batch_norm, with_sublayers(layer))


def _work(calls: frozenset[Call]) -> tuple[int, int]:
    """How much a side of an addition computes: the branch does more than the shortcut.

    Its convolutions that see more than one pixel or signs, then all its layers.
    """
    layers = [call.layer for call in calls]
    heavy = [
        layer
        for layer in layers
        if getattr(layer, "input_quantizer", None) is not None
        or max(getattr(layer, "kernel_size", (1,))) > 1
    ]
    return len(heavy), len(layers)


def _is_addition(layer: keras.Layer) -> bool:
    # The second is the layer that `a + b` creates.
    symbol = getattr(layer, "symbol", None)
    return isinstance(layer, keras.Add) or symbol in ("__operators__.add", "math.add")


def _off(deviation: float) -> bool:
    """Whether a standard deviation needs a factor; that of a dead signal has none."""
    return abs(deviation - 1) > _TOLERANCE and deviation > 1e-6
