"""The data sets, one row each: input, classes, normalization, augmentation, source.

A row may be added at run time, for any data set of tensorflow-datasets:

    DATASETS["svhn_cropped"] = Dataset(
        input_shape=(32, 32, 3), num_classes=10, mean=..., std=..., flip=False
    )

None is needed for `"tfds:svhn_cropped"`, nor for the path of a folder of class folders:
what is not set is measured then.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from larq_nobn._errors import UserError

CROPS = ("padded", "resized", "none")
STORAGES = ("memory", "disk")
TFDS = "tfds:"

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set.

    Attributes:
        input_shape: Height, width and channels of what networks are trained on.
        num_classes: Number of classes.
        mean: Mean per channel, for pixel values in [0, 1].
        std: Standard deviation per channel.
        classes: Names in the order of the labels; without them the labels' numbers.
        crop_padding: Pixels added on each side before the random crop.
        flip: Whether images are mirrored at random.
        stem: The usual stem of networks for it.
        source: Its name in tensorflow-datasets, if another.
        test_split: The held-out part's name there.
        embedded: Whether it comes with scikit-learn and needs no data folder.
        streamed: Whether it stays on disk, as images of any size.
        crop: `"padded"` (a random part of the image with a border, as CIFAR's),
            `"resized"` (a random part of any size and shape, scaled, with lighting, as
            ImageNet's) or `"none"`; by default `"resized"` for what is streamed, else
            `"padded"`.
        folders: Whether it is, in the form it is published in, a folder of class
            folders, whose names are the classes.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    crop_padding: int = 4
    flip: bool = True
    stem: str = "cifar"
    source: str | None = None
    test_split: str = "test"
    embedded: bool = False
    streamed: bool = False
    crop: str | None = None
    folders: bool = False

    def __post_init__(self):
        if self.crop is None:
            crop = "resized" if self.streamed else "padded"
            object.__setattr__(self, "crop", crop)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a recipe says of its images; the fields are those of `training.Recipe`.

    `None` stands for the data set's own, or, of a data set without a row in `DATASETS`,
    for what is measured.
    """

    size: int | None = None
    crop: str | None = None
    flip: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    test_share: float | None = None
    storage: str | None = None

    @property
    def describes_all(self) -> bool:
        """Whether nothing is left to be measured."""
        names = ("size", "crop", "flip", "mean", "std", "classes")
        return all(getattr(self, name) is not None for name in names)

    def filled(self, other: "DataSettings") -> "DataSettings":
        """With another's in place of each `None`."""
        open_ = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: getattr(other, name) for name in open_})


_IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

DATASETS = {
    "cifar10": Dataset(
        input_shape=(32, 32, 3),
        num_classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        classes=tuple(_CIFAR10.split()),
    ),
    "cifar100": Dataset(
        input_shape=(32, 32, 3),
        num_classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        classes=tuple(_CIFAR100.split()),
    ),
    "digits": Dataset(
        input_shape=(8, 8, 1),
        num_classes=10,
        mean=(0.305,),
        std=(0.376,),
        classes=tuple("0123456789"),
        crop_padding=1,
        flip=False,
        embedded=True,
    ),
    "imagenet": Dataset(
        input_shape=(224, 224, 3),
        num_classes=1000,
        **_IMAGENET_STATISTICS,
        stem="imagenet",
        source="imagenet2012",
        test_split="validation",
        streamed=True,
    ),
    "imagenette": Dataset(
        input_shape=(160, 160, 3),
        num_classes=10,
        **_IMAGENET_STATISTICS,
        stem="imagenet",
        source="imagenette/320px-v2",
        test_split="validation",
        crop="resized",
        folders=True,
    ),
    "imagewoof": Dataset(
        input_shape=(160, 160, 3),
        num_classes=10,
        **_IMAGENET_STATISTICS,
        stem="imagenet",
        crop="resized",
        folders=True,
    ),
    "tiny_imagenet": Dataset(
        input_shape=(64, 64, 3),
        num_classes=200,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        crop_padding=8,
        folders=True,
    ),
}


def check_name(what: str, name: object) -> None:
    """Check that a data set can have this name.

    Args:
        what: Name of the argument.
        name: A name in `DATASETS`, `tfds:NAME`, or a path with a `/` in it.

    Raises:
        UserError: If it is none of these.
    """
    if not isinstance(name, str) or not (name in DATASETS or is_own(name)):
        raise UserError(
            f"`{what}` must be one of {', '.join(map(repr, DATASETS))}, or tfds:NAME, "
            "or the path of a folder of class folders",
            got=f"{what}={name!r}",
            fix="a name of tensorflow-datasets needs tfds: in front, and a path a / in "
            f"it, for example ./{name}",
        )


def is_own(name: str) -> bool:
    """Whether a name stands for any data set: `tfds:NAME`, or a path."""
    return name not in DATASETS and (
        "/" in name or (name.startswith(TFDS) and len(name) > len(TFDS))
    )


def plain_name(name: str) -> str:
    """What a data set is called where its path does not matter, or must not be seen.

    Args:
        name: As in `check_name`.

    Returns:
        A name for cards and bundles: `"mnist"` for `"tfds:mnist"`, `"photos"` for
        `"/home/me/Photos/"`.
    """
    if not is_own(name):
        return name
    is_tfds = name.startswith(TFDS)
    path = Path(name).resolve()
    if re.fullmatch(r"\d+(\.\d+)+", path.name):
        path = path.parent  # A version of tensorflow-datasets.
    text = name.removeprefix(TFDS) if is_tfds else path.name
    text = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:56] or "images"
    # A folder may have the name of a published data set, and hold another.
    return f"own-{text}" if text in DATASETS and not is_tfds else text


def row_of(name: str, settings: DataSettings | None = None) -> Dataset:
    """The row of a data set, with what a recipe says.

    Args:
        name: As in `check_name`.
        settings: What a recipe says.

    Returns:
        A row; of a data set without one in `DATASETS` all that `settings` say.

    Raises:
        UserError: If there is neither a row nor all of the settings.
    """
    settings = settings or DataSettings()
    row = DATASETS.get(name)
    if row is None:
        if not settings.describes_all:
            raise UserError(
                f"The images of {name} must have been read to say what they are",
                got="settings without size, crop, flip, mean, std or classes",
                fix="set these, or open it with training.data.load_images",
            )
        row = Dataset(
            input_shape=(settings.size, settings.size, len(settings.mean)),
            num_classes=len(settings.classes),
            mean=settings.mean,
            std=settings.std,
            stem="cifar" if settings.size <= 64 else "imagenet",
            flip=settings.flip,
            crop_padding=max(1, settings.size // 8),
        )
    changes = {
        key: getattr(settings, key)
        for key in ("mean", "std", "flip", "crop", "classes")
        if getattr(settings, key) is not None
    }
    row = replace(row, **changes)
    height, width, _ = row.input_shape
    if settings.size not in (None, height):
        height = width = settings.size
        row = replace(row, crop_padding=max(1, height // 8))
    if settings.crop is not None:
        padding = row.crop_padding or max(1, height // 8)
        row = replace(row, crop_padding=padding if row.crop == "padded" else 0)
    return replace(
        row,
        input_shape=(height, width, len(row.mean)),
        num_classes=len(row.classes) or row.num_classes,
    )


def settings_of(row: Dataset) -> DataSettings:
    """The settings that describe a row, for `row_of`."""
    return DataSettings(
        size=row.input_shape[0],
        crop=row.crop,
        flip=row.flip,
        mean=row.mean,
        std=row.std,
        classes=row.classes or None,
    )


def usual_stem(dataset: str) -> str:
    """The stem of networks for a data set, also for one without a row here."""
    return DATASETS[dataset].stem if dataset in DATASETS else "cifar"


def class_names(dataset: str) -> tuple[tuple[str, str], ...]:
    """Id and name of each class, in the order of the labels.

    Args:
        dataset: One of `DATASETS`.

    Returns:
        For ImageNet pairs such as `("n01440764", "tench")`, as Keras gives them, but
        without a download; else pairs such as `("0", "airplane")`.
    """
    row = DATASETS[dataset]
    if row.source == "imagenet2012":
        return _imagenet_classes()
    return class_pairs(row.classes or map(str, range(row.num_classes)))


def class_pairs(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Id and name of each class: ids of ImageNet, or else the labels' numbers."""
    names = tuple(names)
    if not all(map(_WORDNET_ID.fullmatch, names)):
        return tuple((str(i), name) for i, name in enumerate(names))
    known = dict(_imagenet_classes())
    return tuple((name, known.get(name, name)) for name in names)


def folder_names(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The names that `class_pairs` was given."""
    return tuple(id_ if _WORDNET_ID.fullmatch(id_) else name for id_, name in pairs)


_WORDNET_ID = re.compile(r"n\d{8}")


@functools.cache
def _imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Ids and names that tensorflow-datasets brings along."""
    import tensorflow_datasets as tfds

    file = Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    ids = file.read_text().split()
    try:
        from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST
    except ImportError:
        # Versions without this list: fall back to the ids.
        return tuple((i, i) for i in ids)
    # Keep the first synonym.
    names = [label.split(",")[0].replace(" ", "_") for label in IMAGENET_LABELS_LIST]
    return tuple(zip(ids, names, strict=True))
