"""What the networks expect of images, and what their outputs mean."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, one_of

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"


@dataclass(frozen=True)
class ImageStatistics:
    """Normalization of a dataset's images and the names of its classes.

    Attributes:
        mean: Mean per channel, for pixel values in [0, 1].
        std: Standard deviation per channel.
        classes: Names in the order of the labels; empty where they are numbers or (for
            ImageNet) come from Keras.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()


STATISTICS = {
    "imagenet": ImageStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ImageStatistics(
        (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), tuple(_CIFAR10.split())
    ),
    "cifar100": ImageStatistics((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "digits": ImageStatistics((0.305,), (0.376,), tuple("0123456789")),
}


def preprocess_input(
    images: np.ndarray | tf.Tensor, dataset: str = "imagenet"
) -> np.ndarray | tf.Tensor:
    """Normalize images as in the training of the zoo's networks.

    Args:
        images: Pixel values from 0 to 255, of shape `(..., height, width, channels)`.
        dataset: The one that the network was trained on: `"imagenet"`, `"cifar10"`,
            `"cifar100"` or `"digits"`.

    Returns:
        An array (for an array) or a tensor, float32, of the same shape.

    Raises:
        UserError: If the dataset is unknown or the number of channels does not fit.
    """
    one_of("dataset", dataset, STATISTICS)
    statistics = STATISTICS[dataset]
    mean, std = np.float32(statistics.mean), np.float32(statistics.std)
    if not images.shape or images.shape[-1] != len(mean):
        raise UserError(
            f"Images of {dataset} have {len(mean)} channels on the last axis. "
            f"Received: shape {tuple(images.shape)}. Fix: put channels last."
        )
    if not tf.is_tensor(images):
        return (np.asarray(images, np.float32) / np.float32(255) - mean) / std
    return (tf.cast(images, tf.float32) / 255.0 - mean) / std


def decode_predictions(
    predictions: np.ndarray, top: int = 5, dataset: str = "imagenet"
) -> list[list[tuple[str, str, float]]]:
    """Name the most probable classes.

    Args:
        predictions: Class probabilities of shape `(batch, classes)`.
        top: How many to name per image.
        dataset: The dataset that the network was trained on. ImageNet's names come from
            Keras, which downloads them once.

    Returns:
        Per image a list of `(class id, name, probability)`, the most probable first.

    Raises:
        UserError: If the dataset is unknown, its classes have no names, or the number
            of classes does not fit.
    """
    one_of("dataset", dataset, STATISTICS)
    predictions = np.asarray(predictions)
    if dataset == "imagenet":
        return tf.keras.applications.imagenet_utils.decode_predictions(predictions, top)
    names = STATISTICS[dataset].classes
    if predictions.ndim != 2 or predictions.shape[1] != len(names):
        raise UserError(
            f"`predictions` of {dataset} must have the shape (batch, {len(names)}). "
            f"Received: {predictions.shape}. Fix: pass the model's output and its "
            "dataset."
        )
    order = np.argsort(-predictions, axis=1)[:, :top]
    return [
        [(str(i), names[i], float(row[i])) for i in best]
        for row, best in zip(predictions, order, strict=True)
    ]
