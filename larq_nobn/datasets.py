"""The data sets: input, classes, normalization and augmentation."""

import functools
from dataclasses import dataclass
from pathlib import Path

from larq_nobn._errors import one_of

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


@dataclass(frozen=True)
class ImageStatistics:
    """Normalization of a dataset's images and the names of its classes.

    Attributes:
        mean: Mean per channel, for pixel values in [0, 1].
        std: Standard deviation per channel.
        classes: Names in the order of the labels; empty for ImageNet, whose names
            `class_names` looks up.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()


STATISTICS = {
    "imagenet": ImageStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ImageStatistics(
        (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), tuple(_CIFAR10.split())
    ),
    "cifar100": ImageStatistics(
        (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), tuple(_CIFAR100.split())
    ),
    "digits": ImageStatistics((0.305,), (0.376,), tuple("0123456789")),
}


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and how its images are augmented.

    Attributes:
        input_shape: Height, width and channels.
        num_classes: Number of classes.
        crop_padding: Pixels added on each side before the random crop.
        flip: Whether images are mirrored at random.
        embedded: Whether it comes with scikit-learn and needs no data folder.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    crop_padding: int
    flip: bool
    embedded: bool = False


SOURCES = {
    "cifar10": Source((32, 32, 3), 10, crop_padding=4, flip=True),
    "cifar100": Source((32, 32, 3), 100, crop_padding=4, flip=True),
    "digits": Source((8, 8, 1), 10, crop_padding=1, flip=False, embedded=True),
    "imagenet": Source((224, 224, 3), 1000, crop_padding=0, flip=True),
}


def class_names(dataset: str) -> tuple[tuple[str, str], ...]:
    """Id and name of each class, in the order of the labels.

    Args:
        dataset: One of `STATISTICS`.

    Returns:
        For ImageNet pairs such as `("n01440764", "tench")`, as Keras gives them, but
        without a download; else pairs such as `("0", "airplane")`.

    Raises:
        UserError: If the dataset is unknown.
    """
    one_of("dataset", dataset, STATISTICS)
    if dataset == "imagenet":
        return _imagenet_classes()
    return tuple((str(i), name) for i, name in enumerate(STATISTICS[dataset].classes))


@functools.cache
def _imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Ids and names that tensorflow-datasets brings along."""
    import tensorflow_datasets as tfds

    file = Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    ids = file.read_text().split()
    try:
        from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST
    except ImportError:
        # A version without this list: the ids are better than nothing.
        return tuple((i, i) for i in ids)
    # The first of the synonyms.
    names = [label.split(",")[0].replace(" ", "_") for label in IMAGENET_LABELS_LIST]
    return tuple(zip(ids, names, strict=True))
