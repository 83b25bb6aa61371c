"""Accuracy of any model on test data."""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from larq_nobn._errors import UserError, one_of
from larq_nobn.datasets import DATASETS
from larq_nobn.training import data
from larq_nobn.training.streamed import broken_pictures_named


def check_input(model: tf.keras.Model, dataset: str) -> None:
    """Check that a model takes the images of a data set.

    Raises:
        UserError: If it does not.
    """
    one_of("dataset", dataset, DATASETS)
    expected = DATASETS[dataset].input_shape
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    fits = len(shapes) == 1 and len(shapes[0]) == len(expected)
    if not fits or any(
        size not in (None, wanted)
        for size, wanted in zip(shapes[0], expected, strict=True)
    ):
        raise UserError(
            f"A model for {dataset} must take images of {expected}",
            got=f"input {', '.join(map(str, shapes))}",
            fix="choose the data set that it was trained on",
        )


def evaluate(
    model: tf.keras.Model,
    dataset: str,
    data_dir: str | None = None,
    limit: int | None = None,
    verbose: bool = True,
) -> dict[str, float]:
    """Measure a classifier on the test images of a data set.

    Args:
        model: A model from normalized images to logits or probabilities.
        dataset: One of `datasets.DATASETS`.
        data_dir: tensorflow-datasets folder.
        limit: Only so many images.
        verbose: Whether to show a progress bar.

    Returns:
        `top1` and `top5` in percent, and the number of `images`.

    Raises:
        UserError: If the model has other classes or another input than the data, or the
            data are missing.
    """
    images = data.load_images(dataset, data_dir, limit)
    check_input(model, dataset)
    shape, classes = model.output_shape, images.row.num_classes
    if len(shape) != 2 or shape[-1] != classes:
        raise UserError(
            f"A model for {dataset} must give {classes} classes",
            got=f"output {shape}",
            fix="choose the data set that it was trained on",
        )
    infer = tf.function(lambda x: model(x, training=False))
    hits = np.zeros(2)
    count = 0
    with broken_pictures_named(images):
        for x, y in tqdm(images.test_batches(200), unit="batch", disable=not verbose):
            scores, labels = infer(x).numpy(), y.numpy().argmax(axis=1)
            best = np.argsort(-scores, axis=1)[:, :5] == labels[:, None]
            hits += [best[:, 0].sum(), best.any(axis=1).sum()]
            count += len(labels)
    top1, top5 = (100 * hits / count).tolist()
    return {"top1": top1, "top5": top5, "images": count}
