"""The data sets, one row each: input, classes, normalization, augmentation, source.

A row may be added at run time, for any data set of tensorflow-datasets:

    DATASETS["svhn_cropped"] = Dataset(
        input_shape=(32, 32, 3), num_classes=10, mean=..., std=..., flip=False
    )
"""

import functools
from dataclasses import dataclass
from pathlib import Path

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
        streamed: Whether it stays on disk, as JPEGs of any size, which are cropped and
            scaled as ImageNet's are.
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
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        stem="imagenet",
        source="imagenet2012",
        test_split="validation",
        streamed=True,
    ),
}


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
    names = row.classes or map(str, range(row.num_classes))
    return tuple((str(i), name) for i, name in enumerate(names))


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
