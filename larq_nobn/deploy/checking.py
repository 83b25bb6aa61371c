"""Does an exported file compute what the model computes? Signs, logits, classes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from larq_nobn._errors import UserError
from larq_nobn._keras2 import calls_of
from larq_nobn.deploy.flatbuffer import Flatbuffer, Operator
from larq_nobn.deploy.folded_model import check_model
from larq_nobn.deploy.rules import scope_name
from larq_nobn.deploy.runtime import Runner, check_images

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
    images: np.ndarray,
    progress: bool = False,
) -> Check:
    """Compare a file with the model that it was exported from, image by image.

    Float rounding differs between runtimes. It moves logits by millionths, unless it
    flips the sign of an activation next to zero, which can move them by percents: each
    larger deviation is therefore traced to the first sign that flipped.

    Args:
        model: The model.
        content: The file, from `convert`.
        images: Preprocessed images of shape `(count, height, width, channels)`.
        progress: Whether to show how far it is.

    Returns:
        The figures; `str()` of them is a report.

    Raises:
        UserError: If the images do not fit, or it is no TFLite file.

    Example:
        >>> print(check(model, convert(model), images))
    """
    check_model(model)
    images = check_images(images, model.inputs[0].shape[1:])
    ours = _traced_file(model, content)
    theirs = _TracedModel(model, ours.layers)
    tally = Tally(ours.layers)
    starts = range(0, len(images), 8)
    for start in tqdm(
        starts, "batches of 8", disable=None if progress else True, leave=False
    ):
        batch = images[start : start + 8]
        logits, sizes, inputs = theirs.run(batch)
        for i in range(len(batch)):
            our_logits, our_inputs = ours.run(batch[i : i + 1])
            their_inputs = [x[i] for x in inputs]
            tally.add(our_logits, logits[i], sizes[i], our_inputs, their_inputs)
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
        inputs, quantizers = {}, {}
        logits = model.outputs[0]
        for call in calls_of(model):
            layer, tensors = call.layer, call.inputs
            if scope_name(layer) in names:
                inputs[scope_name(layer)] = tensors[0]
                quantizers[scope_name(layer)] = layer.input_quantizer
            if call.outputs[0] is logits and _is_activation(layer):
                logits = tensors[0]
                break
        producers = {id(call.outputs[0]): call for call in calls_of(model)}
        classifier = producers[id(logits)]
        self._dense = None
        if isinstance(classifier.layer, tf.keras.layers.Dense):
            self._dense = classifier.layer
        outputs = [logits, classifier.inputs[0], *map(inputs.get, names)]
        self._model = tf.keras.Model(model.inputs, outputs)
        self._biases = [getattr(quantizers[name], "bias", 0.0) for name in names]

    def run(
        self, images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Return logits, the sums of the sizes of their summands, and sign inputs."""
        logits, features, *inputs = self._model(images, training=False)
        sizes = tf.abs(logits)
        if self._dense is not None:
            sizes = tf.abs(features) @ tf.abs(self._dense.kernel)
        pairs = zip(inputs, self._biases, strict=True)
        return logits.numpy(), sizes.numpy(), [(x + bias).numpy() for x, bias in pairs]


def _is_activation(layer: tf.keras.layers.Layer) -> bool:
    function = getattr(layer, "activation", None)
    squashing = (tf.keras.activations.softmax, tf.keras.activations.sigmoid)
    kinds = (tf.keras.layers.Activation, tf.keras.layers.Softmax)
    return isinstance(layer, kinds) and (function in squashing or function is None)


class _TracedFile:
    """A file whose outputs are the logits and what goes into its signs."""

    def __init__(self, content: bytes, layers: list[str], turned: bool):
        self.layers = layers
        self._runner = Runner(content)
        self._turned = turned

    def run(self, image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        logits, *inputs = (output[0] for output in self._runner.run(image))
        if self._turned:
            inputs = [x[::-1, ::-1] for x in inputs]
        return logits, inputs


def _traced_file(model: tf.keras.Model, content: bytes) -> _TracedFile:
    file = Flatbuffer(content)
    operators = file.operators()
    producers = {out.index: op for op in operators for out in op.outputs}
    known = {scope_name(call.layer) for call in calls_of(model)}
    signs = dict(_sign_inputs(operators, producers, known))
    logits = file.outputs[0].index
    if operators[-1].kind in _ACTIVATIONS:
        logits = operators[-1].inputs[0].index
    turned = any(op.kind == "REVERSE_V2" for op in operators)
    traced = file.with_outputs([logits, *signs.values()])
    return _TracedFile(traced, list(signs), turned)


def _sign_inputs(
    operators: list[Operator], producers: dict[int, Operator], known: set[str]
) -> Iterator[tuple[str, int]]:
    """Find the tensors that signs are taken of, and the layers that take them."""
    for op in operators:
        if op.kind not in _SIGNS:
            continue
        x = op.inputs[0].index
        while x in producers and producers[x].kind in ("PAD", "PADV2", "STRIDED_SLICE"):
            x = producers[x].inputs[0].index
        names = [name for name in op.outputs[0].scopes if name in known]
        if names:
            yield names[0], x


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
        largest = max(np.abs(theirs).max(), np.finfo(np.float32).tiny)
        deviation = np.abs(ours - theirs).max() / largest
        self._deviations.append(deviation)
        self._agreeing += ours.argmax() == theirs.argmax()
        on_rounding = first is not None and relative <= ROUNDING
        tolerance = TOLERANCE * max(1.0, sizes.max() / largest)
        # Negated, so that NaN counts as a deviation.
        self._unexplained += not (deviation <= tolerance or on_rounding)

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
