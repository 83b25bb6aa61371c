"""What a file's rounding costs: its accuracy beside its model's."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from larq_nobn.deploy.runtime import Runner


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of a model and of the file exported from it.

    Attributes:
        images: How many images were classified.
        model: Of the model, in percent.
        file: Of the file, in percent.
    """

    images: int
    model: float
    file: float


def accuracy(
    model: tf.keras.Model,
    content: bytes,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    progress: bool = False,
) -> Accuracy:
    """Measure a file beside the model that it was exported from.

    Args:
        model: The model.
        content: The file, from `convert`.
        batches: Preprocessed images of shape `(batch, height, width, channels)`, and
            their classes, either numbers of shape `(batch,)` or one-hot.
        progress: Whether to show how far it is.

    Returns:
        Both figures.

    Raises:
        UserError: If the images do not fit, or it is no TFLite file.

    Example:
        >>> accuracy(model, convert(model), [(images, labels)])
    """
    # The indirect kernels give the same integers, much faster on x86.
    runner = Runner(content, indirect=True)
    count, hits = 0, np.zeros(2)
    with tqdm(desc="images", disable=not progress or None, leave=False) as bar:
        for images, labels in batches:
            images, labels = np.asarray(images), np.asarray(labels)
            if labels.ndim > 1:
                labels = labels.argmax(-1)
            for i, scores in enumerate(
                (model.predict_on_batch(images), runner.predict(images))
            ):
                hits[i] += (scores.argmax(-1) == labels).sum()
            count += len(labels)
            bar.update(len(labels))
    theirs, ours = (100 * hits / count).tolist()
    return Accuracy(count, theirs, ours)
