"""What a network is, apart from its weights: one noun, from `create_model` to cards."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from operator import index
from typing import TYPE_CHECKING, Any, Protocol

from larq_nobn._errors import UserError, check_number, one_of
from larq_nobn.networks.naming import BlockNames, Place

if TYPE_CHECKING:
    import tensorflow as tf

NORMS = ("free", "batch", "none")
STEMS = ("imagenet", "cifar")
SURROGATES = ("approx_sign", "sigmoid_sign", "ste_sign", "swish_sign")


class Plan(Protocol):
    """The architecture behind a name: a frozen dataclass, whose fields are the row.

    Attributes:
        alpha: The published α.
        width: The published number of channels of the first stage.
        units: Residual units per stage; `None` where there are no such stages.
        norms: The values of `norm` that exist.
        real_downsamples: Whether there are 1×1 convolutions on shortcuts, whose kernels
            may stay real.
        names: How blocks are named.
    """

    alpha: float
    width: int
    units: tuple[int, ...] | None
    norms: tuple[str, ...]
    real_downsamples: bool
    names: BlockNames

    def stride(self, stem: str) -> int:
        """The product of all strides."""

    def least_weights(self) -> int:
        """How many weights there are at least, known without building the network."""

    def features(self, x: tf.Tensor, network: NetworkSpec) -> tf.Tensor:
        """Apply everything but the head."""


# Rows by network name, filled in by `plans`.
FAMILIES: dict[str, Plan] = {}


def place_of(layer: str) -> Place | None:
    """Where a layer of this name is in a network; `None` if it is in no block."""
    places = (plan.names.place(layer) for plan in FAMILIES.values())
    return next((place for place in places if place is not None), None)


@dataclass(frozen=True)
class NetworkSpec:
    """The arguments of `zoo.create_model` that say which network it is.

    They are checked, and what they leave open is filled in: equal networks are equal.

    Attributes:
        name: One of `zoo.list_models()`.
        norm: As in `zoo.create_model`, as are those not listed here.
        binary_weights: `False` also where there are no binary activations.
        binary_downsample: `True` also where it changes nothing.
        alpha: 1 in a network that is not BN-free.
        units: `None` for the published depth.

    Raises:
        UserError: If an argument is wrong.
    """

    name: str
    _: KW_ONLY
    norm: str = "free"
    binary_weights: bool = True
    binary_downsample: bool = True
    stem: str = "imagenet"
    alpha: float | None = None
    width: int | None = None
    input_shape: tuple[int | None, int | None, int] | None = None
    num_classes: int = 1000
    units: int | None = None
    surrogate: str | None = None
    binary_activations: bool = True

    def __post_init__(self):
        one_of("name", self.name, FAMILIES, fix="choose one of zoo.list_models()")
        for name, value in self._unified(FAMILIES[self.name]).items():
            object.__setattr__(self, name, value)

    def _unified(self, plan: Plan) -> dict[str, Any]:
        """Checked values of what may be left open or written in several ways."""
        one_of("norm", self.norm, plan.norms)
        one_of("stem", self.stem, STEMS)
        one_of("surrogate", self.surrogate, (None, *SURROGATES))
        for name in ("binary_weights", "binary_downsample", "binary_activations"):
            one_of(name, getattr(self, name), (True, False), fix="pass a bool")
        alpha = plan.alpha if self.alpha is None else self.alpha
        check_number("alpha", alpha, "0.2 is the published value")
        fix = "10 for CIFAR-10, 1000 for ImageNet"
        check_number("num_classes", self.num_classes, fix, kind=int)
        width = plan.width if self.width is None else self.width
        check_number("width", width, f"{plan.width} is the published value", kind=int)
        binary_weights = bool(self.binary_weights and self.binary_activations)
        has_choice = binary_weights and plan.real_downsamples
        return {
            "binary_weights": binary_weights,
            "binary_downsample": bool(self.binary_downsample or not has_choice),
            "binary_activations": bool(self.binary_activations),
            "alpha": float(alpha) if self.norm == "free" else 1.0,
            "width": int(width),
            "units": None if self.units is None else self._checked_units(plan),
            "input_shape": self._checked_shape(plan.stride(self.stem)),
            "num_classes": int(self.num_classes),
        }

    def _checked_units(self, plan: Plan) -> int | None:
        """The units of each stage, `None` if they are the published ones."""
        if plan.units is None:
            raise UserError(
                "`units` must be left out for a network without residual units per "
                "stage",
                got=f"units={self.units!r} for {self.name!r}",
                fix="choose a ResNet, or another width instead",
            )
        most = max(plan.units)
        check_number("units", self.units, f"{most} is the most published", kind=int)
        return None if set(plan.units) == {self.units} else int(self.units)

    def _checked_shape(self, stride: int) -> tuple[int | None, int | None, int]:
        """The shape of the images, by default the stem's."""
        given = self.input_shape
        if given is None:
            given = (224, 224, 3) if self.stem == "imagenet" else (32, 32, 3)
        try:
            shape = tuple(None if size is None else index(size) for size in given)
            *sides, channels = shape
            fits = len(sides) == 2 and channels is not None and channels > 0
            fits = fits and all(s is None or (s > 0 and s % stride == 0) for s in sides)
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            fix = f"resize or crop the images to a multiple of {stride}"
            if self.stem == "imagenet":
                fix += ", or use the CIFAR stem"
            if isinstance(given, tuple | list) and len(given) == 2:
                fix = f"say the channels, too: ({given[0]}, {given[1]}, 3)"
            elif not isinstance(given, tuple | list) or len(given) != 3:
                fix = "give three numbers, the channels last, such as (32, 32, 3)"
            raise UserError(
                "`input_shape` must be (height, width, channels), height and width "
                f"multiples of {stride} (the product of the network's strides) or None",
                got=given,
                fix=fix,
            )
        return shape

    @property
    def plan(self) -> Plan:
        """The architecture, at this width and depth."""
        plan = replace(FAMILIES[self.name], width=self.width)
        if self.units is None:
            return plan
        return replace(plan, units=(self.units,) * len(plan.units))

    def shares_body_with(self, other: NetworkSpec) -> bool:
        """Whether the weights of one make the same network of the other.

        The classifier, the size of the images and pseudo-gradients do not count.
        """
        return self._body() == other._body()

    def _body(self) -> NetworkSpec:
        shape = (None, None, self.input_shape[-1])
        return replace(self, input_shape=shape, num_classes=1, surrogate=None)
