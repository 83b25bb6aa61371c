"""What the networks expect of images, and what their outputs mean."""

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, UserTypeError, check_number, one_of
from larq_nobn.datasets import DATASETS, Dataset, class_names, class_pairs
from larq_nobn.weights.card import Card


def preprocess_input(
    images: np.ndarray | tf.Tensor,
    dataset: str | Card | Dataset | tf.keras.Model = "imagenet",
) -> np.ndarray | tf.Tensor:
    """Normalize images as in the training of a network of the zoo.

    Args:
        images: Pixel values from 0 to 255, of shape `(..., height, width, channels)`.
        dataset: What the network was trained on. A model with published weights, or
            its card, says exactly how (A&B BNN, for one, normalizes CIFAR by
            ImageNet's statistics); the name of a dataset, `"imagenet"`, `"cifar10"`,
            `"cifar100"` or `"digits"`, stands for the usual way. Of other data the
            recipe of the training has it in `recipe.row`.

    Returns:
        An array (for an array) or a tensor, float32, of the same shape.

    Raises:
        UserError: If the dataset is unknown, the model has no card, the number of
            channels does not fit, or the pixel values, where they are known (they are
            not inside `Dataset.map`), are not from 0 to 255.
        TypeError: If `images` are neither an array nor a tensor.

    Example:
        >>> model = zoo.ReActNet18NoBN(
        ...     stem="cifar", num_classes=10, weights="cifar10")
        >>> predictions = model.predict(zoo.preprocess_input(photos, model))
    """
    statistics = _description(dataset)
    mean, std = np.float32(statistics.mean), np.float32(statistics.std)
    if not hasattr(images, "shape"):
        raise UserTypeError(
            "`images` must be a NumPy array or a tensor",
            got=type(images).__name__,
            fix="map it over the dataset: images.map(preprocess_input)"
            if isinstance(images, tf.data.Dataset)
            else "np.asarray(images)",
        )
    shape = tf.TensorShape(images.shape)
    if not shape.rank or shape[-1] != len(mean):
        raise UserError(
            f"Images of {_name(dataset)} have {len(mean)} channels on the last axis",
            got=f"shape {shape}",
            fix=_fix_of_channels(shape, len(mean)),
        )
    if not tf.is_tensor(images):
        images = np.asarray(images)
        _check_pixels(images)
        return (np.float32(images) / np.float32(255) - mean) / std
    if tf.executing_eagerly() and isinstance(images, tf.Tensor | tf.Variable):
        _check_pixels(images.numpy())
    return (tf.cast(images, tf.float32) / 255.0 - mean) / std


def _fix_of_channels(shape: tf.TensorShape, count: int) -> str:
    if shape.rank is None:
        return f"say what is known, tf.ensure_shape(images, [None, None, {count}])"
    if shape.rank < 3:
        return "add the axis of channels, images[..., np.newaxis]"
    if shape[-3] == count:
        return "put channels last, np.moveaxis(images, -3, -1)"
    if (shape[-1], count) == (1, 3):
        return "tf.image.grayscale_to_rgb(images)"
    if (shape[-1], count) == (3, 1):
        return "tf.image.rgb_to_grayscale(images)"
    return f"keep {count}, for example without transparency, images[..., :{count}]"


def _check_pixels(images: np.ndarray) -> None:
    """Check that pixel values are from 0 to 255, but for rounding."""
    if not images.size:
        return
    low, high = float(images.min()), float(images.max())
    if not -1e-3 <= low <= high <= 255.001:
        raise UserError(
            "Pixel values must be from 0 to 255",
            got=f"values from {low:g} to {high:g}",
            fix="pass images that are not normalized yet, clipped if a resize has gone "
            "beyond",
        )
    is_float = not np.issubdtype(images.dtype, np.integer)
    if is_float and 0 < high <= 1:
        raise UserError(
            "Pixel values must be from 0 to 255",
            got=f"values from {low:g} to {high:g}",
            fix="preprocess_input(255 * images)",
        )


def decode_predictions(
    predictions: np.ndarray,
    top: int = 5,
    dataset: str | Card | Dataset | tf.keras.Model = "imagenet",
) -> list[list[tuple[str, str, float]]]:
    """Name the most probable classes.

    Args:
        predictions: Class probabilities of shape `(batch, classes)`.
        top: How many to name per image, at least 1.
        dataset: A model with published weights, its card, or the name of the dataset,
            as in `preprocess_input`.

    Returns:
        Per image a list of `(class id, name, probability)`, the most probable first.

    Raises:
        UserError: If the dataset is unknown, the model has no card, the number of
            classes does not fit, `top` is no positive integer, or a prediction is NaN.
    """
    check_number("top", top, "5 is usual", kind=int)
    description = _description(dataset)
    if isinstance(dataset, str):
        named = class_names(dataset)
    elif isinstance(description, Dataset):
        named = class_pairs(description.classes)
    else:
        named = description.classes
    predictions = np.asarray(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != len(named):
        raise UserError(
            f"`predictions` of {_name(dataset)} must have the shape (batch, "
            f"{len(named)})",
            got=predictions.shape,
            fix="pass the model's output and, as `dataset`, the model or its dataset",
        )
    if np.isnan(predictions).any():
        raise UserError(
            "`predictions` must be numbers",
            got=f"NaN for {np.isnan(predictions).any(axis=1).sum()} images",
            fix="look for NaN in the images and in the model's weights",
        )
    order = np.argsort(-predictions, axis=1)[:, :top]
    return [
        [(*named[i], float(row[i])) for i in best]
        for row, best in zip(predictions, order, strict=True)
    ]


def _description(dataset: str | Card | Dataset | tf.keras.Model) -> Dataset | Card:
    """Where mean, standard deviation and classes stand."""
    if isinstance(dataset, Card | Dataset):
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


def _name(dataset: str | Card | Dataset | tf.keras.Model) -> str:
    if isinstance(dataset, Dataset):
        return "the recipe's data"
    return dataset if isinstance(dataset, str) else _description(dataset).dataset
