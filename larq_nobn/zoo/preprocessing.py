"""What the networks expect of images, and what their outputs mean."""

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, one_of
from larq_nobn.datasets import DATASETS, Dataset, class_names
from larq_nobn.weights.card import Card


def preprocess_input(
    images: np.ndarray | tf.Tensor, dataset: str | Card | tf.keras.Model = "imagenet"
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
        >>> model = zoo.ReActNet18NoBN(
        ...     stem="cifar", num_classes=10, weights="cifar10")
        >>> predictions = model.predict(zoo.preprocess_input(photos, model))
    """
    statistics = _description(dataset)
    mean, std = np.float32(statistics.mean), np.float32(statistics.std)
    if not images.shape or images.shape[-1] != len(mean):
        raise UserError(
            f"Images of {_name(dataset)} have {len(mean)} channels on the last axis",
            got=f"shape {tuple(images.shape)}",
            fix="put channels last",
        )
    if not tf.is_tensor(images):
        return (np.asarray(images, np.float32) / np.float32(255) - mean) / std
    return (tf.cast(images, tf.float32) / 255.0 - mean) / std


def decode_predictions(
    predictions: np.ndarray,
    top: int = 5,
    dataset: str | Card | tf.keras.Model = "imagenet",
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
            f"`predictions` of {_name(dataset)} must have the shape (batch, "
            f"{len(named)})",
            got=predictions.shape,
            fix="pass the model's output and, as `dataset`, the model or its dataset",
        )
    order = np.argsort(-predictions, axis=1)[:, :top]
    return [
        [(*named[i], float(row[i])) for i in best]
        for row, best in zip(predictions, order, strict=True)
    ]


def _description(dataset: str | Card | tf.keras.Model) -> Dataset | Card:
    """Where mean, standard deviation and classes stand."""
    if isinstance(dataset, Card):
        return dataset
    if not isinstance(dataset, tf.keras.Model):
        one_of("dataset", dataset, DATASETS, "pass one of these, or the model")
        return DATASETS[dataset]
    card = getattr(dataset, "card", None)
    if card is None:
        raise UserError(
            "A model must have a card to say how its images are normalized",
            got=f"{dataset.name}, which was not built with published weights",
            fix="pass the name of the dataset, one of "
            f"{', '.join(map(repr, DATASETS))}",
        )
    return card


def _name(dataset: str | Card | tf.keras.Model) -> str:
    return dataset if isinstance(dataset, str) else _description(dataset).dataset
