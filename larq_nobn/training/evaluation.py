"""Accuracy of any model on test data."""

from dataclasses import replace

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from larq_nobn._compiler import silence_compiler
from larq_nobn._errors import UserError
from larq_nobn.datasets import (
    DATASETS,
    Dataset,
    DataSettings,
    check_name,
    folder_names,
    row_of,
)
from larq_nobn.training import data
from larq_nobn.training.streamed import StreamedImages, broken_pictures_named


def settings_of_model(model: tf.keras.Model) -> DataSettings:
    """What a model expects of its images, as far as it is known.

    Args:
        model: A model with a card, or with `data_settings`, as the command gives it to
            the model of a run; or any other one, of which the input's size is known.
    """
    settings = getattr(model, "data_settings", None)
    if settings is not None:
        return settings
    card = getattr(model, "card", None)
    if card is None:
        return DataSettings()
    return DataSettings(
        size=card.network.input_shape[0],
        mean=card.mean,
        std=card.std,
        classes=folder_names(card.classes),
        test_share=card.recipe.get("test_share"),
    )


def open_for(
    model: tf.keras.Model,
    dataset: str,
    data_dir: str | None,
    limit: int | None = None,
    test_only: bool = True,
) -> data.Images | StreamedImages:
    """Open a data set in the form that a model takes.

    Args:
        model: A model from normalized images.
        dataset: As in `data.load_images`.
        data_dir: Likewise.
        limit: Likewise.
        test_only: Likewise.

    Raises:
        UserError: If the model takes other images, or the data are missing.
    """
    check_name("dataset", dataset)
    settings = settings_of_model(model)
    if dataset in DATASETS:
        row = DATASETS[dataset]
        if row.classes or not row.folders:
            settings = replace(settings, classes=None)
        check_input(model, dataset, row_of(dataset, settings))
    elif settings.size is None and len(model.inputs[0].shape) == 4:
        settings = replace(settings, size=model.inputs[0].shape[1])
    # Only the training needs these, so they are not measured.
    settings = settings.filled(DataSettings(flip=False))
    images = data.load_images(dataset, data_dir, limit, settings, test_only)
    check_input(model, dataset, images.row)
    return images


def check_input(model: tf.keras.Model, dataset: str, row: Dataset) -> None:
    """Check that a model takes the images of a data set.

    Raises:
        UserError: If it does not.
    """
    expected = row.input_shape
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
        dataset: A name, `tfds:NAME` or a path, as in `data.load_images`.
        data_dir: tensorflow-datasets folder.
        limit: Only so many images.
        verbose: Whether to show a progress bar.

    Returns:
        `top1` and `top5` in percent, and the number of `images`.

    Raises:
        UserError: If the model has other classes or another input than the data, or the
            data are missing.
    """
    images = open_for(model, dataset, data_dir, limit)
    shape, classes = model.output_shape, images.row.num_classes
    if len(shape) != 2 or shape[-1] != classes:
        raise UserError(
            f"A model for {dataset} must give {classes} classes",
            got=f"output {shape}",
            fix="choose the data set that it was trained on",
        )
    if verbose:
        silence_compiler()
    infer = tf.function(lambda x: model(x, training=False))
    hits = np.zeros(2)
    count = 0
    batches = images.test_batches(200)
    with broken_pictures_named(images):
        # It is compiled before the bar's clock starts.
        infer(next(iter(batches))[0])
        for x, y in tqdm(batches, unit="batch", disable=not verbose):
            scores, labels = infer(x).numpy(), y.numpy().argmax(axis=1)
            best = np.argsort(-scores, axis=1)[:, :5] == labels[:, None]
            hits += [best[:, 0].sum(), best.any(axis=1).sum()]
            count += len(labels)
    top1, top5 = (100 * hits / count).tolist()
    return {"top1": top1, "top5": top5, "images": count}
