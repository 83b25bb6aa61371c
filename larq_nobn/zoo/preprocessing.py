"""What the networks expect of images, and what their outputs mean."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, one_of

if TYPE_CHECKING:
    from larq_nobn.zoo.card import Card

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


def preprocess_input(
    images: np.ndarray | tf.Tensor, dataset: "str | Card | tf.keras.Model" = "imagenet"
) -> np.ndarray | tf.Tensor:
    """Normalize images as in the training of a network of the zoo.

    Args:
        images: Pixel values from 0 to 255, of shape `(..., height, width, channels)`.
        dataset: What the network was trained on. A model with published weights, or
            its card, says exactly how (A&B BNN, for one, normalizes CIFAR by
            ImageNet's statistics); the name of a dataset, `"imagenet"`, `"cifar10"`,
            `"cifar100"` or `"digits"`, stands for the usual way.

    Returns:
        An array (for an array) or a tensor, float32, of the same shape.

    Raises:
        UserError: If the dataset is unknown, the model has no card, or the number of
            channels does not fit.

    Example:
        >>> model = zoo.ReActNetNoBN(weights="imagenet")
        >>> predictions = model.predict(zoo.preprocess_input(images, model))
    """
    statistics = _description(dataset)
    mean, std = np.float32(statistics.mean), np.float32(statistics.std)
    if not images.shape or images.shape[-1] != len(mean):
        raise UserError(
            f"Images of {_name(dataset)} have {len(mean)} channels on the last axis. "
            f"Received: shape {tuple(images.shape)}. Fix: put channels last."
        )
    if not tf.is_tensor(images):
        return (np.asarray(images, np.float32) / np.float32(255) - mean) / std
    return (tf.cast(images, tf.float32) / 255.0 - mean) / std


def decode_predictions(
    predictions: np.ndarray,
    top: int = 5,
    dataset: "str | Card | tf.keras.Model" = "imagenet",
) -> list[list[tuple[str, str, float]]]:
    """Name the most probable classes.

    Args:
        predictions: Class probabilities of shape `(batch, classes)`.
        top: How many to name per image.
        dataset: A model with published weights, its card, or the name of the dataset,
            as in `preprocess_input`.

    Returns:
        Per image a list of `(class id, name, probability)`, the most probable first.

    Raises:
        UserError: If the dataset is unknown, the model has no card, or the number of
            classes does not fit.
    """
    description = _description(dataset)
    named = class_names(dataset) if isinstance(dataset, str) else description.classes
    predictions = np.asarray(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != len(named):
        raise UserError(
            f"`predictions` of {_name(dataset)} must have the shape "
            f"(batch, {len(named)}). Received: {predictions.shape}. Fix: pass the "
            "model's output and, as `dataset`, the model or its dataset."
        )
    order = np.argsort(-predictions, axis=1)[:, :top]
    return [
        [(*named[i], float(row[i])) for i in best]
        for row, best in zip(predictions, order, strict=True)
    ]


def _description(dataset: "str | Card | tf.keras.Model") -> "ImageStatistics | Card":
    """Where mean, standard deviation and classes stand."""
    from larq_nobn.zoo.card import Card

    if isinstance(dataset, Card):
        return dataset
    if not isinstance(dataset, tf.keras.Model):
        one_of("dataset", dataset, STATISTICS, "pass one of these, or the model")
        return STATISTICS[dataset]
    card = getattr(dataset, "card", None)
    if card is None:
        raise UserError(
            "A model must have a card to say how its images are normalized. Received: "
            f"{dataset.name}, which was not built with published weights. Fix: pass "
            f"the name of the dataset, one of {', '.join(map(repr, STATISTICS))}."
        )
    return card


def _name(dataset: "str | Card | tf.keras.Model") -> str:
    return dataset if isinstance(dataset, str) else _description(dataset).dataset
