"""Does an exported file compute what the model computes? Signs, logits, classes."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import larq as lq
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from larq_nobn._errors import UserError
from larq_nobn._keras2 import (
    Call,
    arguments_of,
    calls_of,
    is_functional,
    run_functional,
)
from larq_nobn.deploy.flatbuffer import Flatbuffer, Operator
from larq_nobn.deploy.folded_model import check_model
from larq_nobn.deploy.rules import names_of
from larq_nobn.deploy.runtime import Runner, check_inputs

# A logit may deviate by this much of the largest logit before it has to be explained,
# by a flipped sign or by this much of the numbers that cancel in it.
TOLERANCE = 1e-5
# A sign may flip on rounding where its input is this small against the layer's others.
ROUNDING = 1e-5
_SIGNS = ("LceQuantize", "GREATER_EQUAL")
_ACTIVATIONS = ("SOFTMAX", "LOGISTIC")


@dataclass(frozen=True)
class LayerFlips:
    """Signs of one layer that differ between file and model.

    Attributes:
        layer: The layer's name.
        signs: How many signs were compared.
        first: Flips in images whose earlier layers all agree: where trouble starts.
        later: Flips in images that differed before.
        largest: The largest input of a `first` flip, relative to the root mean square
            of the layer's inputs in that image.
    """

    layer: str
    signs: int
    first: int
    later: int
    largest: float


@dataclass(frozen=True)
class Check:
    """How far a file is from its model.

    Attributes:
        images: How many images were compared.
        median: Median over the images of the largest deviation of a logit, relative to
            the image's largest logit.
        largest: The largest of them.
        agreement: Share of images of which both name the same class.
        deviating: Images that deviate by more than `TOLERANCE`.
        unexplained: Those of them that rounding does not explain: no sign flipped on
            it, and the deviation is more than `TOLERANCE` of what the classifier adds
            up (of the largest sum of the sizes of a logit's summands).
        flips: Per binary layer, in order.
    """

    images: int
    median: float
    largest: float
    agreement: float
    deviating: int
    unexplained: int
    flips: tuple[LayerFlips, ...]

    @property
    def passed(self) -> bool:
        """Whether the file counts as exact."""
        good = self.median <= TOLERANCE and self.agreement >= 0.99
        return good and not self.unexplained

    def __str__(self) -> str:
        """Return the figures as text."""
        lines = [
            (
                f"{self.images} images: logits deviate by {self.median:.1e} (median) "
                f"and {self.largest:.1e} (most) of the largest logit; classes agree on "
                f"{100 * self.agreement:.2f} %"
            ),
            (
                f"{self.deviating} images deviate by more than {TOLERANCE:.0e}, "
                f"{self.deviating - self.unexplained} of them because a sign flipped "
                "on rounding or the summands of the logits cancel, "
                f"{self.unexplained} unexplained"
            ),
        ]
        for flips in self.flips:
            if flips.first or flips.later:
                where = (
                    f", input at most {flips.largest:.1e} rms" if flips.first else ""
                )
                lines.append(
                    f"  {flips.layer}: {flips.first} of {flips.signs} signs flipped "
                    f"first here{where}; {flips.later} after others"
                )
        return "\n".join(lines)


def check(
    model: tf.keras.Model,
    content: bytes,
    images: np.ndarray | Sequence[np.ndarray],
    progress: bool = False,
) -> Check:
    """Compare a file with the model that it was exported from, image by image.

    Float rounding differs between runtimes. It moves logits by millionths, unless it
    flips the sign of an activation next to zero, which can move them by percents: each
    larger deviation is therefore traced to the first sign that flipped.

    Args:
        model: The model.
        content: The file, from `convert`.
        images: Preprocessed images of shape `(count, height, width, channels)`; a list
            of arrays, if the model has several inputs.
        progress: Whether to show how far it is.

    Returns:
        The figures; `str()` of them is a report.

    Raises:
        UserError: If the images do not fit, or it is no TFLite file.

    Example:
        >>> print(check(model, convert(model), images))
    """
    check_model(model)
    arrays = check_inputs(images, [tuple(x.shape[1:]) for x in model.inputs])
    ours = _traced_file(model, content)
    theirs = _TracedModel(model, ours.layers)
    tally = Tally(ours.layers)
    starts = range(0, len(arrays[0]), 8)
    for start in tqdm(
        starts, "batches of 8", disable=None if progress else True, leave=False
    ):
        batch = [x[start : start + 8] for x in arrays]
        logits, sizes, inputs = theirs.run(batch)
        for i in range(len(batch[0])):
            our_logits, our_inputs = ours.run([x[i : i + 1] for x in batch])
            their_inputs = [x[i] for x in inputs]
            their_logits, of_image = [y[i] for y in logits], [x[i] for x in sizes]
            our_inputs = [
                a.reshape(b.shape)
                for a, b in zip(our_inputs, their_inputs, strict=True)
            ]
            tally.add_all(our_logits, their_logits, of_image, our_inputs, their_inputs)
    return tally.result()


def ensure_explained(result: Check) -> None:
    """Check that nothing but rounding sets a file apart from its model.

    Raises:
        UserError: If an image's deviation has no explanation.
    """
    if result.unexplained:
        raise UserError(
            "The file must compute what the model computes",
            got=f"{result.unexplained} of {result.images} images deviate by more than "
            f"{TOLERANCE:.0e} of the largest logit (by up to {result.largest:.1e}), "
            "and no sign flipped on rounding explains it",
            fix="if the file is this model's, in float32, please report it with the "
            "model; nothing was written",
        )


class _TracedModel:
    """A Keras model that also returns what goes into its signs."""

    def __init__(self, model: tf.keras.Model, names: list[str]):
        self._model, self._names = model, names
        self._names_of = names_of(model)

    def run(
        self, images: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Return logits, the sums of the sizes of their summands, and sign inputs."""
        signs: dict[str, tf.Tensor] = {}
        # By the tensors' `id`: how they came to be.
        calls: dict[int, tuple] = {}
        # What signs that are layers of their own are signs of.
        before: dict[int, tf.Tensor] = {}

        def compute(call: Call, tensors: dict):
            layer = call.layer
            arguments, named = arguments_of(call, tensors)
            if is_functional(layer):
                return run_functional(layer, arguments[0], compute)
            inputs = [tensors[id(x)] for x in call.inputs]
            name = self._names_of[id(layer)]
            if name in self._names:
                signs[name] = _sign_input(layer, inputs[0], before)
            if "training" in inspect.signature(layer.call).parameters:
                # Keras's augmentation would take it for granted.
                named = {**named, "training": False}
            outputs = layer(*arguments, **named)
            for y in tf.nest.flatten(outputs):
                # With the tensor, lest another gets its `id`.
                calls[id(y)] = (layer, inputs[0], y)
                if isinstance(layer, lq.quantizers.Quantizer):
                    before[id(y)] = _sign_input(layer, inputs[0], before)
                elif id(inputs[0]) in before and np.array_equal(y, inputs[0]):
                    before[id(y)] = before[id(inputs[0])]
            return outputs

        tensors = [tf.convert_to_tensor(x) for x in images]
        logits, sizes = [], []
        for y in tf.nest.flatten(run_functional(self._model, tensors, compute)):
            y, size = _logits(y, calls)
            logits.append(y.numpy())
            sizes.append(size.numpy())
        return logits, sizes, [signs[name].numpy() for name in self._names]


def _logits(y: tf.Tensor, calls: dict[int, tuple]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what an output is the softmax of, and the sums of its summands' sizes."""
    layer, x, _ = calls.get(id(y), (None, y, y))
    if layer is not None and _is_squashing(layer) and not _is_dense(layer):
        y = x
        layer, x, _ = calls.get(id(y), (None, y, y))
    if not _is_dense(layer):
        return y, tf.abs(y)
    if _is_squashing(layer):
        y = x @ layer.kernel + (layer.bias if layer.use_bias else 0.0)
    return y, tf.abs(x) @ tf.abs(layer.kernel)


def _is_dense(layer: tf.keras.layers.Layer | None) -> bool:
    if type(layer) is not tf.keras.layers.Dense:
        return False
    return _is_squashing(layer) or layer.activation is tf.keras.activations.linear


def _sign_input(
    layer: tf.keras.layers.Layer, x: tf.Tensor, before: dict[int, tf.Tensor]
) -> tf.Tensor:
    quantizer = getattr(layer, "input_quantizer", None)
    if isinstance(layer, lq.quantizers.Quantizer):
        quantizer = layer
    if quantizer is None:
        return before[id(x)]
    return x + getattr(quantizer, "bias", 0.0)


def _is_squashing(layer: tf.keras.layers.Layer) -> bool:
    """Whether a layer ends in a softmax or sigmoid, which is compared without it."""
    function = getattr(layer, "activation", None)
    squashing = (tf.keras.activations.softmax, tf.keras.activations.sigmoid)
    if type(layer) is tf.keras.layers.Softmax:
        return True
    kinds = (tf.keras.layers.Activation, tf.keras.layers.Dense)
    return type(layer) in kinds and function in squashing


def _last_layer(model: tf.keras.Model, tensor: tf.Tensor) -> tf.keras.layers.Layer:
    """Return the layer that an output of a model comes from."""
    for call in calls_of(model):
        for i, y in enumerate(call.outputs):
            if y is tensor:
                if is_functional(call.layer):
                    return _last_layer(call.layer, call.layer.outputs[i])
                return call.layer
    return None


class _TracedFile:
    """A file whose outputs are the logits and what goes into its signs."""

    def __init__(self, content: bytes, layers: list[str], turned: bool, count: int):
        self.layers = layers
        self._runner = Runner(content)
        self._turned = turned
        self._count = count

    def run(
        self, images: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        outputs = [output[0] for output in self._runner.run(images)]
        logits, inputs = outputs[: self._count], outputs[self._count :]
        if self._turned:
            inputs = [x[::-1, ::-1] if x.ndim == 3 else x for x in inputs]
        return logits, inputs


def _traced_file(model: tf.keras.Model, content: bytes) -> _TracedFile:
    file = Flatbuffer(content)
    operators = file.operators()
    producers = {out.index: op for op in operators for out in op.outputs}
    known = set(names_of(model).values())
    signs = dict(_sign_inputs(operators, producers, known))
    logits = []
    for y, reference in zip(file.outputs, model.outputs, strict=True):
        is_squashed = _is_squashing(_last_layer(model, reference))
        if is_squashed and producers[y.index].kind in _ACTIVATIONS:
            y = producers[y.index].inputs[0]
        logits.append(y.index)
    # Images are turned outside of all layers.
    turned = any(
        op.kind == "REVERSE_V2" and not op.outputs[0].scopes for op in operators
    )
    traced = file.with_outputs([*logits, *signs.values()])
    return _TracedFile(traced, list(signs), turned, len(logits))


def _sign_inputs(
    operators: list[Operator], producers: dict[int, Operator], known: set[str]
) -> Iterator[tuple[str, int]]:
    """Find the tensors that signs are taken of, and the layers that take them."""
    for op in operators:
        if op.kind not in _SIGNS:
            continue
        names = [name for name in op.outputs[0].scopes if name in known]
        x = op.inputs[0].index
        while x in producers and _is_passed(producers[x], names):
            x = producers[x].inputs[0].index
        if names:
            yield names[0], x


def _is_passed(op: Operator, names: list[str]) -> bool:
    """Whether an operator only moves what a layer with these names takes signs of."""
    if op.kind == "RESHAPE":
        return any(name in names for name in op.outputs[0].scopes)
    return op.kind in ("PAD", "PADV2", "STRIDED_SLICE", "SLICE")


class Tally:
    """Collects the figures of `Check` over images.

    Args:
        layers: Names of the layers whose signs are compared, in order.
    """

    def __init__(self, layers: list[str]):
        self._layers = layers
        self._signs, self._first, self._later = np.zeros((3, len(layers)), np.int64)
        self._largest = np.zeros(len(layers))
        self._deviations: list[float] = []
        self._agreeing = 0
        self._unexplained = 0

    def add(self, ours, theirs, sizes, our_inputs, their_inputs) -> None:
        """Compare one image: logits, and what goes into each layer's signs.

        Args:
            ours: Logits of what is checked.
            theirs: Logits of what it is to be like.
            sizes: The sums of the sizes of the logits' summands.
            our_inputs: Our inputs of each layer's signs.
            their_inputs: Theirs.
        """
        self.add_all([ours], [theirs], [sizes], our_inputs, their_inputs)

    def add_all(self, ours, theirs, sizes, our_inputs, their_inputs) -> None:
        """The same for several outputs: lists of logits and of sizes."""
        flips = [
            (a >= 0) != (b >= 0) for a, b in zip(our_inputs, their_inputs, strict=True)
        ]
        first = next((i for i, flipped in enumerate(flips) if flipped.any()), None)
        relative = 0.0
        for i, flipped in enumerate(flips):
            self._signs[i] += flipped.size
            (self._first if i == first else self._later)[i] += flipped.sum()
        if first is not None:
            x = their_inputs[first]
            relative = np.abs(x[flips[first]]).max() / np.sqrt(np.mean(x**2))
            self._largest[first] = max(self._largest[first], relative)
        on_rounding = first is not None and relative <= ROUNDING
        deviations, is_fine = [], True
        for a, b, size in zip(ours, theirs, sizes, strict=True):
            largest = max(np.abs(b).max(), np.finfo(np.float32).tiny)
            deviations.append(np.abs(a - b).max() / largest)
            tolerance = TOLERANCE * max(1.0, size.max() / largest)
            # So that NaN counts as a deviation.
            is_fine = is_fine and bool(deviations[-1] <= tolerance)
        self._deviations.append(max(deviations))
        self._agreeing += all(
            a.argmax() == b.argmax() for a, b in zip(ours, theirs, strict=True)
        )
        self._unexplained += not (is_fine or on_rounding)

    def result(self) -> Check:
        """The figures."""
        deviations = np.array(self._deviations)
        columns = zip(
            self._layers,
            self._signs.tolist(),
            self._first.tolist(),
            self._later.tolist(),
            self._largest.tolist(),
            strict=True,
        )
        return Check(
            images=len(deviations),
            median=float(np.median(deviations)),
            largest=float(deviations.max()),
            agreement=float(self._agreeing / len(deviations)),
            deviating=int((~(deviations <= TOLERANCE)).sum()),
            unexplained=int(self._unexplained),
            flips=tuple(LayerFlips(*column) for column in columns),
        )
