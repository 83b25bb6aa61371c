"""Every network of the zoo, converted and checked: the table that proves the export."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from larq_nobn import zoo
from larq_nobn._errors import UserError
from larq_nobn.deploy.checking import Check, check
from larq_nobn.deploy.conversion import convert
from larq_nobn.deploy.folded_model import FoldedModel
from larq_nobn.deploy.inspection import Report, multiplications_before, report

HEADER = (
    "network",
    "binary convolutions",
    "images",
    "median deviation",
    "largest",
    "same class",
    "deviating",
    "unexplained",
    "float mults before",
    "after",
    "file MB",
    "seconds",
)


@dataclass(frozen=True)
class Finding:
    """One network's conversion and check.

    Attributes:
        name: The network.
        expected: How many layers should become binary convolutions.
        multiplications: Float multiplications outside of kernels before folding.
        report: What is in the file.
        check: How far the file is from the model.
        seconds: How long converting and checking took.
    """

    name: str
    expected: int
    multiplications: int
    report: Report
    check: Check
    seconds: float

    @property
    def missing(self) -> int:
        """How many layers should be binary convolutions and are none."""
        return self.expected - self.report.binary_convolutions

    @property
    def row(self) -> tuple[str, ...]:
        """The finding as a row of a table under `HEADER`."""
        return (
            self.name,
            f"{self.report.binary_convolutions} of {self.expected}",
            str(self.check.images),
            f"{self.check.median:.1e}",
            f"{self.check.largest:.1e}",
            f"{100 * self.check.agreement:.2f} %",
            str(self.check.deviating),
            str(self.check.unexplained),
            f"{self.multiplications / 1e6:.2f} M",
            f"{self.report.total('multiplications') / 1e6:.2f} M",
            f"{self.report.nbytes / 1e6:.3f}",
            f"{self.seconds:.0f}",
        )


def examine(
    model: tf.keras.Model, name: str, images: np.ndarray, target: str = "arm"
) -> Finding:
    """Convert and check one model.

    Args:
        model: The model.
        name: What to call it.
        images: Preprocessed images of its size.
        target: As in `convert`.

    Raises:
        UserError: If it cannot be converted, or the images do not fit.
    """
    started = time.monotonic()
    content = convert(model, target)
    result = check(model, content, images)
    folded = FoldedModel(model, target)
    folded.failures()
    return Finding(
        name,
        len(folded.binary_layers),
        multiplications_before(model),
        report(content),
        result,
        time.monotonic() - started,
    )


def zoo_networks(
    stem: str = "cifar", width: int | None = None
) -> Iterator[tuple[str, tf.keras.Model]]:
    """Every family and norm of the zoo, with random weights.

    Args:
        stem: `"cifar"` (32×32, 10 classes) or `"imagenet"` (224×224, 1000 classes).
        width: Channels of the first stage; by default the published ones.

    Yields:
        Names and models; each model's graph is gone when the next is asked for.
    """
    for name in zoo.list_models():
        for norm in zoo.FAMILIES[name].norms:
            model = zoo.create_model(
                name,
                norm=norm,
                stem=stem,
                width=width,
                num_classes=10 if stem == "cifar" else 1000,
            )
            randomize(model)
            yield f"{name} {norm}", model
            tf.keras.backend.clear_session()


def check_all(
    models: Iterable[tuple[str, tf.keras.Model]],
    images_for: Callable[[tf.keras.Model], np.ndarray],
    target: str = "arm",
) -> Iterator[Finding]:
    """Convert and check many models.

    Args:
        models: Their names and themselves, such as `zoo_networks()`.
        images_for: Returns the images to check a model on.
        target: As in `convert`.

    Yields:
        A finding per model.

    Raises:
        UserError: In the end, if a file does not compute what its model computes, or
            has float layers that should be binary.

    Example:
        >>> for finding in check_all([("mine", model)], lambda model: images):
        ...     print(finding.row)
    """
    failed = []
    for name, model in models:
        finding = examine(model, name, images_for(model), target)
        yield finding
        if finding.check.unexplained or finding.missing:
            failed.append(name)
    if failed:
        raise UserError(
            "Every network must convert exactly",
            got="float layers, or deviations that no rounding explains, in "
            f"{', '.join(failed)}",
            fix="please report this table",
        )


def randomize(model: tf.keras.Model, seed: int = 0) -> None:
    """Give a model weights as training leaves them: no zeros, no ones, both signs.

    Fresh weights would let errors pass: shifts are 0, gains 1, batch norms idle, and
    binary kernels all positive. Layers keep about unit variance, so that a network is
    no more sensitive to single signs than it has to be.

    Args:
        model: A built model.
        seed: Seed of the numbers.
    """
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if not variable.dtype.is_floating:
            continue
        n = random.standard_normal(variable.shape)
        kind = variable.name.split("/")[-1].split(":")[0]
        if kind == "kernel":
            value = n / np.sqrt(np.prod(variable.shape[:-1]))
        elif kind in ("gain", "gamma"):
            value = 1 + 0.1 * n
        elif kind == "moving_variance":
            value = np.exp(0.1 * n)
        else:
            # Shifts, biases and means around 0; slopes around their initial value.
            value = variable.numpy() * (1 + 0.2 * n) + 0.1 * n * (kind != "slope")
        variable.assign(value)
