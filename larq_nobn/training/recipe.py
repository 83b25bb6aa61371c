"""What a training is: a frozen dataclass, one Python file a published result."""

import ast
import dataclasses
import importlib.util
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from larq_nobn._errors import UserError, first_line, one_of, shown
from larq_nobn._shipped import shipped
from larq_nobn.datasets import (
    CROPS,
    DATASETS,
    STORAGES,
    Dataset,
    DataSettings,
    check_name,
    row_of,
    settings_of,
)
from larq_nobn.networks import FAMILIES, NetworkSpec

SCHEDULES = ("linear", "cosine")
PADDINGS = ("zero", "reflect")
OPTIMIZERS = ("adam", "rmsprop", "sgd")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A two-step training of one network on one data set.

    The defaults are the paper's ("BNN - BN = ?", arXiv 2104.08215, Section 4.1, and its
    official code): step 1 trains with binary activations and real weights, step 2 goes
    on from its best weights with binary weights too. What the paper does not have is
    off.

    Attributes:
        name: Name of the result.
        dataset: One of `datasets.DATASETS`; `"tfds:NAME"`, any image set of
            tensorflow-datasets; or the path, with a `/` in it, of a folder of class
            folders (`train/CLASS` and `val/CLASS`, or `CLASS` alone).
        model: One of `zoo.list_models()`.
        norm: `"free"`, `"batch"` or `"none"`.
        stem: `"imagenet"` or `"cifar"`.
        width: Channels of the first stage; `None` for the published width.
        units: Residual units in each stage; `None` for the published plan.
        alpha: Factor on the residual branches; `None` for the published one.
        epochs: Epochs of each step.
        step1_epochs: Epochs of step 1, if not as many as of step 2; 0 skips it, so that
            activations and weights are binary from the start.
        batch_size: Images per step of the optimizer.
        optimizer: `"adam"` (the paper's), `"rmsprop"`, or `"sgd"` with Nesterov
            momentum 0.9.
        learning_rate: Base rate of the optimizer.
        schedule: `"linear"`: epoch e of E (from 0) runs at base · (1 − (e+1)/E), as in
            the paper (so the last epoch changes nothing); `"cosine"`: at
            base · (1 + cos(πe/E)) / 2.
        warmup_epochs: Epochs over which the rate rises linearly.
        clip_factor: λ of adaptive gradient clipping; 0 switches clipping off.
        weight_decay: L2 of step 1 on kernels, gains and learnable biases.
        label_smoothing: Label smoothing of the cross-entropy.
        teacher: `None`, the path of a saved Keras model (one of ours, say) that takes
            the same normalized images, or `"keras:NAME"` for a network of
            `keras.applications` with its ImageNet weights.
        teacher_weight: Share of the distribution loss; the rest is cross-entropy with
            the labels.
        surrogate: As in `zoo.create_model`.
        binary_activations: `False` for the real-valued twin, as in `zoo.create_model`;
            with `step1_epochs=0` it has one step.
        ema: Momentum of a moving average of the weights, which is then evaluated and
            published; 0 for none.
        mixup: α of mixup; 0 for none.
        cutmix: α of CutMix; 0 for none. With both, each batch draws one of them.
        flip_test: Average the logits of each test image and its mirror image.
        padding: Border of the random crop, `"zero"` or `"reflect"`.
        weights: Published weights to start from: the folder or name of a bundle, the
            name of a data set, or a file, as in `zoo.create_model`, and as strict.
            They are for the first step that is trained: weights of step 2 need
            `step1_epochs=0`.
        seed: Seed of initialization, order and augmentation.
        precision: A Keras dtype policy.
        limit: Train and test on so many images only.
        size: Side of the square images that the network takes. This and the following
            settings are the data set's own if they are `None`; of any other data they
            are measured, and kept with the run.
        crop: `"padded"`, a random part of the image with a border, as CIFAR's;
            `"resized"`, a random part of any size and shape, scaled, as ImageNet's; or
            `"none"`.
        flip: Whether images are mirrored at random.
        mean: Mean per channel, for pixel values in [0, 1]: three, or one for grey.
        std: Standard deviation per channel.
        classes: Names of the classes in the order of the labels.
        test_share: Which share of each class to hold out for testing, where the data
            have no part for that (0.2).
        storage: `"memory"` or `"disk"`; by default by size.
    """

    name: str
    dataset: str
    model: str
    norm: str = "free"
    stem: str = "imagenet"
    width: int | None = None
    units: int | None = None
    alpha: float | None = None
    epochs: int = 256
    step1_epochs: int | None = None
    batch_size: int = 256
    optimizer: str = "adam"
    learning_rate: float = 5e-4
    schedule: str = "linear"
    warmup_epochs: int = 0
    clip_factor: float = 0.02
    weight_decay: float = 1e-5
    label_smoothing: float = 0.0
    teacher: str | None = None
    teacher_weight: float = 1.0
    surrogate: str | None = None
    binary_activations: bool = True
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    padding: str = "zero"
    flip_test: bool = False
    weights: str | None = None
    seed: int = 0
    precision: str = "float32"
    limit: int | None = None
    size: int | None = None
    crop: str | None = None
    flip: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    test_share: float | None = None
    storage: str | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), list):
                # As JSON gives them.
                object.__setattr__(self, field.name, tuple(value))
            _check_type(field, getattr(self, field.name))
        check_name("dataset", self.dataset)
        _check_data(self)
        one_of("model", self.model, FAMILIES)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("padding", self.padding, PADDINGS)
        one_of("precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size", "learning_rate"):
            _check_range(self, name, above=0)
        for name in (
            "warmup_epochs",
            "clip_factor",
            "weight_decay",
            "mixup",
            "cutmix",
            "seed",
        ):
            _check_range(self, name, at_least=0)
        for name in ("label_smoothing", "ema"):
            _check_range(self, name, at_least=0, below=1)
        _check_range(self, "teacher_weight", at_least=0, at_most=1)
        if self.step1_epochs is not None:
            _check_range(self, "step1_epochs", at_least=0)
        # It checks the rest; of data that are still to be measured with a stand-in.
        stand_in = DataSettings(
            size=224,
            crop="none",
            flip=False,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            classes=("", ""),
        )
        self._network(row_of(self.dataset, self.data_settings.filled(stand_in)))

    def epochs_of(self, step: str) -> int:
        """Epochs of `"step1"` or `"step2"`."""
        if step == "step1" and self.step1_epochs is not None:
            return self.step1_epochs
        return self.epochs

    @property
    def first_step(self) -> str:
        """The step that a training begins with."""
        return "step1" if self.epochs_of("step1") else "step2"

    def learning_rate_at(self, epoch: int, step: str = "step2") -> float:
        """Learning rate of an epoch, counted from 0 in each step."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * (epoch + 1) / (self.warmup_epochs + 1)
        done = epoch - self.warmup_epochs
        total = max(self.epochs_of(step) - self.warmup_epochs, 1)
        return self.learning_rate * decay(self.schedule, done, total)

    @property
    def network(self) -> NetworkSpec:
        """The network of step 2, with the data set's input and classes."""
        return self._network(self.row)

    def _network(self, row: Dataset) -> NetworkSpec:
        settings = {field.name: getattr(self, field.name) for field in _NETWORK}
        return NetworkSpec(
            self.model,
            input_shape=row.input_shape,
            num_classes=row.num_classes,
            **settings,
        )

    @property
    def data_settings(self) -> DataSettings:
        """What the recipe says of its images."""
        return DataSettings(**{f.name: getattr(self, f.name) for f in _DATA})

    @property
    def row(self) -> Dataset:
        """What the images are.

        Raises:
            UserError: If they have to be measured first; see `described_by`.
        """
        return row_of(self.dataset, self.data_settings)

    def described_by(self, row: Dataset) -> "Recipe":
        """The recipe with what has been measured of its images.

        Args:
            row: The `row` of what `data.load_images` gave.

        Returns:
            The same recipe, if the data set has a row in `datasets.DATASETS` that says
            all.
        """
        if self.dataset not in DATASETS:
            settings = self.data_settings.filled(settings_of(row))
        elif row.classes and not DATASETS[self.dataset].classes:
            settings = DataSettings(classes=row.classes)
        else:
            return self
        found = dataclasses.asdict(settings).items()
        return self.replace(**{k: v for k, v in found if v is not None})

    def network_of(self, step: str) -> NetworkSpec:
        """The network of `"step1"` or `"step2"`."""
        return dataclasses.replace(self.network, binary_weights=step == "step2")

    def model_arguments(self, binary_weights: bool = True) -> dict[str, Any]:
        """Arguments of `zoo.create_model` for the recipe's network."""
        step = "step2" if binary_weights else "step1"
        return dataclasses.asdict(self.network_of(step))

    def replace(self, **changes: Any) -> "Recipe":
        """Return a recipe with some settings changed.

        Raises:
            UserError: On an unknown or ill-typed setting, with the valid ones.
        """
        valid = {field.name: field for field in dataclasses.fields(self)}
        for name in changes:
            if name not in valid:
                raise UserError(
                    f"A setting must be one of {', '.join(valid)}",
                    got=repr(name),
                    fix="choose one of these",
                )
        return dataclasses.replace(self, **changes)


# The settings that belong to the network.
_NETWORK = [
    field
    for field in dataclasses.fields(Recipe)
    if field.name in {f.name for f in dataclasses.fields(NetworkSpec)} - {"name"}
]


# Those of the data.
_DATA = dataclasses.fields(DataSettings)


def decay(schedule: str, done: int, total: int) -> float:
    """What a schedule multiplies the base rate by.

    Args:
        schedule: One of `SCHEDULES`.
        done: Epochs that are done.
        total: Epochs of the schedule.

    Returns:
        A factor from 0 to 1.
    """
    if schedule == "linear":
        return 1 - (done + 1) / total
    return (1 + math.cos(math.pi * done / total)) / 2


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Parse `key=value` pairs; values are Python literals, or else strings.

    Args:
        pairs: For example `["epochs=5", "norm=batch"]`.

    Returns:
        Dict from keys to values, to give to `Recipe.replace`.

    Raises:
        UserError: If a pair has no `=`.
    """
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(
                "A setting must have the form key=value",
                got=repr(pair),
                fix="for example --set epochs=5",
            )
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            settings[key] = value
    return settings


def load_recipe(path: str | Path) -> Recipe:
    """Read the recipe that a Python file holds as `RECIPE`.

    Args:
        path: The file, or the name of one that comes with the package, such as
            `"cifar10_reactnet18"`. It is run, so it must be one that you trust.

    Returns:
        The recipe.

    Raises:
        UserError: If the file is missing, fails to run or holds no recipe.
    """
    path = Path(path)
    published = {file.stem: file for file in sorted(shipped("training").glob("*.py"))}
    path = published.get(str(path), path)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(
            "A recipe must be a Python file",
            got=f"{path}{'' if path.exists() else ', which does not exist'}",
            fix=f"the path of one, or a published one's name: {', '.join(published)}",
        )
    spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        # A recipe is a program: it may raise anything, even SystemExit(0).
        raise UserError(
            "A recipe must be a Python file that runs",
            got=f"{path}, {type(error).__name__}: {first_line(error)}",
            fix="correct the file",
        ) from error
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UserError(
            "A recipe file must define RECIPE = larq_nobn.training.Recipe(...)",
            got=f"{path}, RECIPE is {type(recipe).__name__}",
            fix="see the files in training/",
        )
    return recipe


def _check_type(field: dataclasses.Field, value: Any) -> None:
    kinds = (
        typing.get_args(field.type)
        if isinstance(field.type, types.UnionType)
        else (field.type,)
    )
    if isinstance(value, tuple) and typing.get_origin(kinds[0]) is tuple:
        (entry, _), none = typing.get_args(kinds[0]), kinds[1:]
        for part in value:
            _check_type(_Entry(f"entries of {field.name}", entry), part)
        kinds = (tuple, *none)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    # An int is accepted for a float, but a bool not for an int.
    accepted = [*kinds, int] if float in kinds else list(kinds)
    is_bool = isinstance(value, bool)
    if not isinstance(value, tuple(accepted)) or (is_bool and bool not in kinds):
        expected = " or ".join(getattr(k, "__name__", str(k)) for k in kinds)
        raise UserError(
            f"`{field.name}` must be of type {expected.replace('NoneType', 'None')}",
            got=f"{field.name}={shown(value)} of type {type(value).__name__}",
            fix="give a value of that type",
        )
    if isinstance(value, int | float):
        most = 1e38 if isinstance(value, float) or float in kinds else 2**32 - 1
        if not abs(value) <= most:
            raise UserError(
                f"`{field.name}` must be from {-most:g} to {most:g}",
                got=f"{field.name}={shown(value)}",
                fix="give a smaller one",
            )


@dataclass(frozen=True)
class _Entry:
    """What `_check_type` needs of a field."""

    name: str
    type: type


def checked(settings: DataSettings) -> DataSettings:
    """The same, if a recipe may say this.

    Raises:
        UserError: If not.
    """
    for field in _DATA:
        _check_type(field, getattr(settings, field.name))
    _check_data(settings)
    return settings


def _check_data(recipe: Recipe | DataSettings) -> None:
    for name, allowed in {"crop": CROPS, "storage": STORAGES}.items():
        if getattr(recipe, name) is not None:
            one_of(name, getattr(recipe, name), allowed)
    if recipe.size is not None:
        _check_range(recipe, "size", above=0, at_most=4096)
    if recipe.test_share is not None:
        _check_range(recipe, "test_share", above=0, below=1)
    mean, std = recipe.mean, recipe.std
    numbers = [len(values) for values in (mean, std) if values is not None]
    if numbers not in ([], [1, 1], [3, 3]) or (std and not min(std) > 0):
        raise UserError(
            "`mean` and `std` go together, three numbers each or, for grey images, "
            "one, and `std` is above 0",
            got=f"mean={mean}, std={std}",
            fix="leave out both, to have them measured",
        )


def _check_range(
    recipe: Recipe | DataSettings,
    name: str,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    value = getattr(recipe, name)
    bounds = {
        f"above {above}": above is None or value > above,
        f"at least {at_least}": at_least is None or value >= at_least,
        f"at most {at_most}": at_most is None or value <= at_most,
        f"below {below}": below is None or value < below,
    }
    # NaN fails every comparison.
    failed = [text for text, holds in bounds.items() if not holds]
    if failed:
        raise UserError(
            f"`{name}` must be {' and '.join(failed)}",
            got=f"{name}={shown(value)}",
            fix="see the recipe's default",
        )
