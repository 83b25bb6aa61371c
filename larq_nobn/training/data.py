"""Data sets and their input pipelines, deterministic under a seed.

A pipeline is a pure function of (seed, epoch): the order of the images and every random
number of the augmentation. A run that was interrupted therefore sees the same batches
again when it resumes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn._errors import check_number, one_of
from larq_nobn.datasets import DATASETS, Dataset
from larq_nobn.training.pipeline import (
    augment,
    augmentation_seed,
    check_batch_size,
    mix,
    normalize,
    readable,
)
from larq_nobn.training.streamed import open_streamed


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    Attributes:
        name: Its name in `datasets.DATASETS`.
        train: Images, uint8 of shape `(examples, height, width, channels)`, and labels,
            int64 of shape `(examples,)`.
        test: The same for the held-out part.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def row(self) -> Dataset:
        """Its row in `datasets.DATASETS`."""
        return DATASETS[self.name]

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.train[0])

    def train_batches(self, *args, **kwargs) -> tf.data.Dataset:
        """One epoch of training batches; see `train_batches`."""
        return train_batches(self, *args, **kwargs)

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        """The held-out images; see `test_batches`."""
        return test_batches(self, batch_size)


def load_images(name: str, data_dir: str | None = None, limit: int | None = None):
    """Open a data set: small ones are read into memory, ImageNet stays on disk.

    Args:
        name: One of `datasets.DATASETS`.
        data_dir: tensorflow-datasets folder; by default `TFDS_DATA_DIR`, or tfds's own.
            For ImageNet also a folder with `train` and `val`, a folder a class in each.
        limit: Take only so many training images, and as many test images at most.

    Returns:
        An `Images`, or an object with the same `row`, `train_size`, `train_batches`
        and `test_batches`.

    Raises:
        UserError: If the name is unknown, or the data are missing or unreadable.
    """
    one_of("dataset", name, DATASETS)
    if limit is not None:
        check_number("limit", limit, "leave it out to take all images", kind=int)
    row = DATASETS[name]
    if row.streamed:
        return open_streamed(name, data_dir, limit)
    parts = _load_digits() if row.embedded else _load_tfds(name, data_dir)
    train, test = ((x[:limit], y[:limit]) for x, y in parts)
    return Images(name, train, test)


def _load_digits() -> list[tuple[np.ndarray, np.ndarray]]:
    """1,797 real scans of 8×8 pixels; a fifth of each class is held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.2, random_state=0, stratify=labels
    )
    return [(x_train, y_train), (x_test, y_test)]


def _load_tfds(name: str, data_dir: str | None) -> list[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds

    with readable(name, data_dir):
        row = DATASETS[name]
        builder = tfds.builder(row.source or name, data_dir=data_dir)
        if not Path(builder.data_path).is_dir():
            builder.download_and_prepare()
        parts = [
            tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
            for split in ("train", row.test_split)
        ]
    return [(part["image"], part["label"].astype(np.int64)) for part in parts]


def train_batches(
    images: Images,
    batch_size: int,
    seed: int,
    epoch: int,
    padding: str = "zero",
    mixup: float = 0.0,
    cutmix: float = 0.0,
    start: int = 0,
) -> tf.data.Dataset:
    """One epoch of shuffled, augmented and normalized training batches.

    Args:
        images: The data set.
        batch_size: Images per batch; the last, smaller batch is dropped.
        seed: Seed of the run.
        epoch: Number of the epoch.
        padding: What the random crop fills in: `"zero"` (black, as in the paper) or
            `"reflect"`.
        mixup: As in `mix`.
        cutmix: As in `mix`.
        start: Leave out so many batches, which costs nothing.

    Returns:
        Batches `(images, labels)`: float32 of shape `(batch_size, height, width,
        channels)` and one-hot float32 of shape `(batch_size, classes)`.

    Raises:
        UserError: If the batch is larger than the data set.
    """
    x, y = images.train
    check_batch_size(batch_size, len(x))
    order = np.random.default_rng([seed, epoch]).permutation(len(x))
    # As constants they are captured once instead of copied per batch.
    with tf.device("CPU"):
        x, y = tf.constant(x), tf.constant(y)

    def batch(index: tf.Tensor, step: tf.Tensor):
        random = augmentation_seed(seed, epoch, step)
        augmented = augment(tf.gather(x, index), random, images.row, padding)
        labels = tf.one_hot(tf.gather(y, index), images.row.num_classes)
        return mix(normalize(augmented, images.name), labels, random, mixup, cutmix)

    indices = tf.data.Dataset.from_tensor_slices(order)
    indices = indices.batch(batch_size, drop_remainder=True)
    steps = tf.data.Dataset.range(len(order) // batch_size)
    return (
        tf.data.Dataset.zip((indices, steps))
        .skip(start)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def test_batches(images: Images, batch_size: int) -> tf.data.Dataset:
    """The held-out images in order, normalized.

    Args:
        images: The data set.
        batch_size: Images per batch; the last batch may be smaller.

    Returns:
        Batches `(images, labels)` as in `train_batches`.
    """
    classes = images.row.num_classes
    return (
        tf.data.Dataset.from_tensor_slices(images.test)
        .batch(batch_size)
        .map(lambda x, y: (normalize(x, images.name), tf.one_hot(y, classes)))
        .prefetch(tf.data.AUTOTUNE)
    )
