"""What the input pipelines of all data sets share.

Every random number is a pure function of a seed, and stateless.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import ParseError

from larq_nobn._errors import UserError, first_line
from larq_nobn.datasets import DATASETS, Dataset

# Independent random streams from one seed.
_CROP, _FLIP, _MIX, _BOX = 1, 2, 3, 4


@contextlib.contextmanager
def readable(name: str, data_dir: str | None) -> Iterator[None]:
    """Turn whatever reading through tensorflow-datasets raises into one clear error.

    Args:
        name: The data set.
        data_dir: tensorflow-datasets folder, or `None` for the default.

    Raises:
        UserError: If the folder is missing or the data cannot be read.
    """
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(
            "`data_dir` must be a tensorflow-datasets folder",
            got=f"{data_dir}, which is no folder",
            fix="check the path, or leave it out to download the data",
        )
    # tfds raises whatever its parsers, file systems and downloaders raise.
    failures = (OSError, ValueError, AssertionError, KeyError, tf.errors.OpError)
    failures += (ParseError,)
    try:
        yield
    except UserError:
        raise
    except (*failures, ImportError) as error:
        where = data_dir or "tensorflow-datasets' default folder"
        raise UserError(
            f"The data set {name} must be readable through tensorflow-datasets in "
            f"{where}",
            got=f"{type(error).__name__}: {first_line(error)}",
            fix="pass the folder of prepared data with --data-dir or TFDS_DATA_DIR, "
            "or connect to the network once to download it",
        ) from error


def check_batch_size(batch_size: int, examples: int) -> None:
    """Check that there is at least one whole batch.

    Raises:
        UserError: If there is none.
    """
    if not 0 < batch_size <= examples:
        raise UserError(
            f"`batch_size` must be from 1 to the number of training images, {examples}",
            got=f"batch_size={batch_size}",
            fix="make it smaller",
        )


def normalize(images: tf.Tensor, dataset: str | Dataset) -> tf.Tensor:
    """Normalize a batch of pixel values to Keras's float type.

    See `zoo.preprocess_input`.
    """
    row = DATASETS[dataset] if isinstance(dataset, str) else dataset
    mean, std = np.array(row.mean), np.array(row.std)
    dtype = tf.keras.backend.floatx()
    return tf.cast(images, dtype) * (1 / (255 * std)).astype(dtype) - (
        mean / std
    ).astype(dtype)


def augmentation_seed(seed: int, epoch: int, step: tf.Tensor) -> tf.Tensor:
    """Seed of one batch's augmentation, of shape `(2,)`."""
    first = tf.constant(seed * 1_000_003 + epoch, tf.int64)
    return tf.stack([first, tf.cast(step, tf.int64)])


def _stream(seed: tf.Tensor, stream: int) -> tf.Tensor:
    return seed + tf.constant([0, stream << 40], tf.int64)


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    mixup: float,
    cutmix: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Mix each image with the batch's mirror order: mixup or CutMix.

    mixup (arXiv 1710.09412) blends the images, CutMix (arXiv 1905.04899) pastes a box;
    the labels mix in the same proportion \\(\lambda \sim Beta(\alpha, \alpha)\\), one
    per batch. With both switched on, each batch draws one of the two.

    Args:
        images: float32 of shape `(batch, height, width, channels)`.
        labels: One-hot, of shape `(batch, classes)`.
        seed: int64 of shape `(2,)`.
        mixup: \\(\alpha\\) of mixup; 0 for none.
        cutmix: \\(\alpha\\) of CutMix; 0 for none.

    Returns:
        Images and labels of the same shapes.
    """
    if not mixup and not cutmix:
        return images, labels
    height, width = images.shape[1:3]
    draw = tf.random.stateless_uniform([3], _stream(seed, _BOX), alg="philox")
    boxed = draw[0] < (0.5 if mixup and cutmix else float(bool(cutmix)))
    alpha = tf.where(boxed, cutmix or 1.0, mixup or 1.0)
    # Beta(α, α) from two gammas.
    gammas = tf.random.stateless_gamma([2], _stream(seed, _MIX), alpha)
    share = gammas[0] / tf.maximum(tf.reduce_sum(gammas), 1e-30)

    side = tf.sqrt(1 - share)
    centre = draw[1:] * [height, width]
    half = side * [height, width] / 2
    rows = tf.abs(tf.range(height, dtype=tf.float32) + 0.5 - centre[0]) < half[0]
    columns = tf.abs(tf.range(width, dtype=tf.float32) + 0.5 - centre[1]) < half[1]
    box = tf.cast(rows[:, None] & columns[None, :], tf.float32)[..., None]
    # The share of the image itself, by pixel.
    keep = tf.where(boxed, 1 - box, tf.fill([height, width, 1], share))
    share = tf.reduce_mean(keep)
    other = images[::-1]
    return (
        keep * images + (1 - keep) * other,
        share * labels + (1 - share) * labels[::-1],
    )


def augment(
    images: tf.Tensor, seed: tf.Tensor, row: Dataset, padding: str = "zero"
) -> tf.Tensor:
    """Crop each padded image at random and mirror it at random.

    Only gathers and stateless random numbers of a named algorithm, so that the same
    code works inside an exported XLA train step (where it draws other numbers, because
    XLA counts them in another order).

    Args:
        images: uint8 of shape `(batch, height, width, channels)`.
        seed: int64 of shape `(2,)`.
        row: How to augment.
        padding: `"zero"` or `"reflect"`.

    Returns:
        Tensor of the shape and dtype of `images`.
    """
    batch = tf.shape(images)[0]
    height, width = images.shape[1:3]
    pad = row.crop_padding

    def random(stream: int, shape, maxval: int) -> tf.Tensor:
        return tf.random.stateless_uniform(
            shape, _stream(seed, stream), 0, maxval, tf.int32, alg="philox"
        )

    if pad:
        mode = {"zero": "CONSTANT", "reflect": "REFLECT"}[padding]
        images = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]], mode)
        offset = random(_CROP, [batch, 2], 2 * pad + 1)
        rows = offset[:, :1] + tf.range(height)
        columns = offset[:, 1:] + tf.range(width)
        images = tf.gather(images, rows, axis=1, batch_dims=1)
        images = tf.gather(images, columns, axis=2, batch_dims=1)
    if row.flip:
        mirror = random(_FLIP, [batch, 1, 1, 1], 2) > 0
        images = tf.where(mirror, images[:, :, ::-1], images)
    return images
