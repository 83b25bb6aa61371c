"""What a network is, apart from its weights."""

from dataclasses import dataclass, replace
from operator import index
from typing import Any

from larq_nobn._errors import UserError, check_number, one_of
from larq_nobn.networks.plans import FAMILIES, MobileNet, ResNet

STEMS = ("imagenet", "cifar")
SURROGATES = ("approx_sign", "sigmoid_sign", "ste_sign", "swish_sign")


@dataclass(frozen=True, kw_only=True)
class Network:
    """The arguments of `create_model` on which it depends whether weights fit.

    Attributes:
        name: One of `list_models()`.
        norm: As in `create_model`, as are those not listed here.
        binary_downsample: `True` also where it changes nothing.
        alpha: 1 in a network that is not BN-free.
        units: `None` for the published depth.
    """

    name: str
    norm: str
    binary_weights: bool
    binary_downsample: bool
    stem: str
    alpha: float
    width: int
    input_shape: tuple[int | None, int | None, int]
    num_classes: int
    units: int | None = None

    @property
    def family(self) -> ResNet | MobileNet:
        """The plan, at this width and depth."""
        plan = replace(FAMILIES[self.name], width=self.width)
        if self.units is None:
            return plan
        return replace(plan, units=(self.units,) * len(plan.units))

    def shares_body_with(self, other: "Network") -> bool:
        """Whether the weights of one make the same network of the other.

        The classifier and the size of the images do not count.
        """
        return self._body() == other._body()

    def _body(self) -> "Network":
        channels = self.input_shape[-1]
        return replace(self, input_shape=(None, None, channels), num_classes=1)


def describe_network(
    name: str,
    *,
    norm: str = "free",
    binary_weights: bool = True,
    binary_downsample: bool = True,
    stem: str = "imagenet",
    alpha: float | None = None,
    width: int | None = None,
    units: int | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    num_classes: int = 1000,
) -> Network:
    """Check `create_model`'s arguments, and fill in and unify what they leave open.

    It takes those by the same names, and with the same defaults.

    Returns:
        The description.

    Raises:
        UserError: If an argument is wrong.
    """
    one_of("name", name, FAMILIES, fix="choose one of zoo.list_models()")
    family = FAMILIES[name]
    one_of("norm", norm, family.norms)
    one_of("stem", stem, STEMS)
    alpha = family.alpha if alpha is None else alpha
    check_number("alpha", alpha, float, "0.2 is the published value")
    check_number("num_classes", num_classes, int, "10 for CIFAR-10, 1000 for ImageNet")
    width = family.width if width is None else width
    check_number("width", width, int, f"{family.width} is the published value")
    if units is not None:
        units = _checked_units(name, units)
    for flag, value in {
        "binary_weights": binary_weights,
        "binary_downsample": binary_downsample,
    }.items():
        one_of(flag, value, (True, False), fix="pass a bool")
    if input_shape is None:
        input_shape = (224, 224, 3) if stem == "imagenet" else (32, 32, 3)
    has_choice = binary_weights and isinstance(family, ResNet)
    return Network(
        name=name,
        norm=norm,
        binary_weights=bool(binary_weights),
        binary_downsample=bool(binary_downsample or not has_choice),
        stem=stem,
        alpha=float(alpha) if norm == "free" else 1.0,
        width=int(width),
        input_shape=_checked_shape(input_shape, family.stride(stem), stem),
        num_classes=int(num_classes),
        units=units,
    )


def _checked_units(name: str, units: int) -> int | None:
    """The units of each stage, `None` if they are the published ones."""
    family = FAMILIES[name]
    if not isinstance(family, ResNet):
        raise UserError(
            "`units` must be left out for a network without residual units per stage. "
            f"Received: units={units!r} for {name!r}. Fix: choose a ResNet, or another "
            "width instead."
        )
    check_number("units", units, int, f"{max(family.units)} is the most published")
    return None if set(family.units) == {units} else int(units)


def _checked_shape(input_shape: Any, stride: int, stem: str) -> tuple:
    """The shape of the images, checked against the product of the strides."""
    try:
        shape = tuple(None if size is None else index(size) for size in input_shape)
        height, width, channels = shape
        fits = all(s is None or (s > 0 and s % stride == 0) for s in (height, width))
        fits = fits and channels is not None and channels > 0
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise UserError(
            f"`input_shape` must be (height, width, channels), height and width "
            f"multiples of {stride} (the product of the network's strides) or None. "
            f"Received: {input_shape}. Fix: resize or crop the images to a multiple of "
            f"{stride}{', or use the CIFAR stem' if stem == 'imagenet' else ''}."
        )
    return shape
