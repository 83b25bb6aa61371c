"""The networks: one description per family, every variant an argument or a row."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import tensorflow as tf

from larq_nobn._errors import UserError, one_of
from larq_nobn.layers import SymmetricMaxPooling2D
from larq_nobn.models import FusedModel
from larq_nobn.zoo import weights as zoo_weights
from larq_nobn.zoo.arguments import check_number, check_tensor, checked_shape
from larq_nobn.zoo.blocks import (
    Method,
    conv,
    mobile_betas,
    mobile_block,
    resnet_unit,
    stage_betas,
)

NORMS = ("free", "batch", "none")
STEMS = ("imagenet", "cifar")
SURROGATES = ("approx_sign", "sigmoid_sign", "ste_sign", "swish_sign")


@dataclass(frozen=True)
class ResNet:
    """The ResNet plan with binary 3×3 convolutions.

    Attributes:
        units: Residual units per stage.
        convs: Convolutions per residual unit.
        react: Whether units have ReActNet's learnable bias and RPReLU.
        alpha: The published α.
        width: Channels of the first stage; each further one doubles them.
        add_and_bit: Whether units are A&B BNN's.
        norms: The values of `norm` that exist.
    """

    units: tuple[int, ...]
    convs: int = 1
    react: bool = True
    alpha: float = 0.2
    width: int = 64
    add_and_bit: bool = False
    norms: tuple[str, ...] = NORMS

    def stride(self, stem: str) -> int:
        """The product of all strides."""
        return (4 if stem == "imagenet" else 1) * 2 ** (len(self.units) - 1)

    def features(self, x: tf.Tensor, method: Method, stem: str) -> tf.Tensor:
        """Apply everything but the head."""
        method = replace(method, react=self.react, add_and_bit=self.add_and_bit)
        if stem == "imagenet":
            x = conv(x, method, self.width, 7, strides=2, name="stem")
            x = SymmetricMaxPooling2D(3, 2, name="stem_pool")(x)
        else:
            x = conv(x, method, self.width, 3, name="stem")
        downsamples = [stage > 0 for stage in range(len(self.units))]
        betas = stage_betas(self.units, downsamples, method.branch_scale)
        if method.norm != "free":
            betas = [[1.0] * count for count in self.units]
        for stage, count in enumerate(self.units):
            for unit in range(count):
                first = unit == 0 and downsamples[stage]
                x = resnet_unit(
                    x,
                    method,
                    self.width * 2**stage,
                    stride=2 if first else 1,
                    downsample=first,
                    convs=self.convs,
                    beta=betas[stage][unit],
                    name=f"stage{stage + 1}_unit{unit + 1}",
                )
        return x


@dataclass(frozen=True)
class MobileNet:
    """ReActNet-A's plan, after MobileNetV1.

    Attributes:
        multiples: Width of each block in multiples of the stem's.
        alpha: The published α.
        width: Channels of the stem.
        add_and_bit: Whether blocks are A&B BNN's.
        norms: The values of `norm` that exist.
    """

    multiples: tuple[int, ...] = (2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)
    alpha: float = 0.2
    width: int = 32
    add_and_bit: bool = False
    norms: tuple[str, ...] = NORMS

    def strides(self) -> list[int]:
        """Stride 2 where the width changes, but not in the first block."""
        before = (2, *self.multiples)
        return [
            1 if new == old else 2
            for old, new in zip(before, self.multiples, strict=False)
        ]

    def stride(self, stem: str) -> int:
        """The product of all strides."""
        return (2 if stem == "imagenet" else 1) * 2 ** self.strides().count(2)

    def features(self, x: tf.Tensor, method: Method, stem: str) -> tf.Tensor:
        """Apply everything but the head."""
        method = replace(method, add_and_bit=self.add_and_bit)
        strides = 2 if stem == "imagenet" else 1
        x = conv(x, method, self.width, 3, strides=strides, name="stem")
        betas = list(mobile_betas(self.strides(), method.branch_scale))
        if method.norm != "free":
            betas = [(1.0, 1.0)] * len(betas)
        plan = zip(self.multiples, self.strides(), betas, strict=True)
        for i, (multiple, stride, beta) in enumerate(plan):
            x = mobile_block(
                x,
                method,
                self.width * multiple,
                stride=stride,
                betas=beta,
                name=f"block{i + 1}",
            )
        return x


# A&B BNN (arXiv 2403.03739) has no batch norm by definition: it would multiply.
_AB = {"alpha": 0.25, "add_and_bit": True, "norms": ("free",)}

FAMILIES: dict[str, ResNet | MobileNet] = {
    "reactnet18": ResNet((4, 4, 4, 4)),
    "reactnet34": ResNet((6, 8, 12, 6)),
    "reactnet_a": MobileNet(),
    "abnet18": ResNet((4, 4, 4, 4), **_AB),
    "abnet34": ResNet((6, 8, 12, 6), **_AB),
    "abnet_a": MobileNet(**_AB),
    "birealnet18": ResNet((4, 4, 4, 4), react=False),
    "xnornet18": ResNet((2, 2, 2, 2), convs=2, react=False),
}


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
        input_shape=checked_shape(input_shape, family.stride(stem), stem),
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


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return list(FAMILIES)


def create_model(
    name: str,
    *,
    norm: str = "free",
    binary_weights: bool = True,
    binary_downsample: bool = True,
    stem: str = "imagenet",
    alpha: float | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    num_classes: int = 1000,
    include_top: bool = True,
    classifier_activation: str | Callable | None = "softmax",
    weights: str | None = None,
    width: int | None = None,
    units: int | None = None,
    surrogate: str | None = None,
    binary_activations: bool = True,
) -> tf.keras.Model:
    """Build a binary network of the zoo.

    Args:
        name: One of `list_models()`.
        norm: `"free"` for the method of "BNN - BN = ?" (arXiv 2104.08215), `"batch"`
            for the twin with batch norm, `"none"` for batch norm simply removed.
        binary_weights: `True` for binary activations and weights (the paper's step 2),
            `False` for binary activations only (step 1). Both have the same weights.
        binary_downsample: Whether the 1×1 convolutions on shortcuts have binary weights
            where the others do. `False` is liuzechun's ReActNet-18.
        stem: `"imagenet"` (strided) or `"cifar"` (stride 1, no pooling).
        alpha: Factor on the residual branches of a BN-free network, Section 3.1; by
            default the published one, 0.2 (A&B BNN: 0.25).
        input_shape: Height, width and channels, by default `(224, 224, 3)` or, with
            the CIFAR stem, `(32, 32, 3)`. Height and width must be divisible by the
            product of the network's strides, or `None`.
        input_tensor: Keras tensor to use as input.
        num_classes: Number of classes.
        include_top: Whether to end in pooling and the classifier (the layer
            `"classifier"`); the last feature map otherwise.
        classifier_activation: Activation on top; `None` gives logits.
        weights: `None` for random initialization, the name of a dataset for published
            weights, or the path of a weights file or saved model.
        width: Channels of the first stage, for smaller or larger networks.
        units: Residual units in each stage, for shallower or deeper networks; by
            default the published plan. Only the networks on the ResNet plan take it.
        surrogate: Sign of the activations, by the pseudo-gradient that it trains with:
            `"approx_sign"` (the paper's), `"sigmoid_sign"` (A&B BNN's), `"ste_sign"` or
            `"swish_sign"`. The forward pass is the same; by default the published one.
        binary_activations: `False` for the real-valued twin: no signs, and real weights
            whatever `binary_weights` says; what binarization costs is measured by it.

    Returns:
        A functional `tf.keras.Model` from images, preprocessed by
        `zoo.preprocess_input`, to class probabilities of shape `(batch, num_classes)`.

    Raises:
        UserError: If an argument is wrong, or the weights do not fit.

    Example:
        >>> model = create_model("reactnet18", stem="cifar", num_classes=10)
    """
    if input_tensor is not None:
        input_tensor, input_shape = check_tensor(input_tensor, input_shape)
    network = describe_network(
        name,
        norm=norm,
        binary_weights=binary_weights,
        binary_downsample=binary_downsample,
        stem=stem,
        alpha=alpha,
        width=width,
        units=units,
        input_shape=input_shape,
        num_classes=num_classes,
    )
    one_of("include_top", include_top, (True, False), fix="pass a bool")
    one_of("binary_activations", binary_activations, (True, False), fix="pass a bool")
    if surrogate is not None:
        one_of("surrogate", surrogate, SURROGATES)

    if input_tensor is None:
        image = tf.keras.Input(network.input_shape, name="image")
    else:
        image = input_tensor
    method = Method(
        norm,
        binary_weights and binary_activations,
        binary_downsample,
        network.alpha,
        surrogate=surrogate,
        binary_activations=binary_activations,
    )
    x = network.family.features(image, method, stem)
    if include_top:
        x = _head(x, num_classes, classifier_activation)
    if input_tensor is not None:
        image = tf.keras.utils.get_source_inputs(image)
    model = FusedModel(image, x, name=f"{name}_{norm}")
    zoo_weights.load_pretrained(model, weights, network, include_top)
    return model


def _head(
    x: tf.Tensor, num_classes: int, activation: str | Callable | None
) -> tf.Tensor:
    """Global average pool, dense layer and activation."""
    bound = x.shape[-1] ** -0.5  # PyTorch's default for dense layers
    x = tf.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = tf.keras.layers.Dense(
        num_classes,
        kernel_initializer=tf.keras.initializers.RandomUniform(-bound, bound),
        bias_initializer=tf.keras.initializers.RandomUniform(-bound, bound),
        name="classifier",
    )(x)
    # Half precision is too coarse for a softmax over many classes and its logarithm.
    half = tf.as_dtype(x.dtype).size < 4
    try:
        layer = tf.keras.layers.Activation(
            activation, dtype="float32" if half else None, name="predictions"
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            "`classifier_activation` must be a Keras activation or None for logits. "
            f"Received: classifier_activation={activation!r}. Fix: 'softmax' or None."
        ) from error
    return layer(x)
