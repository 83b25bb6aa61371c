"""Data sets and their input pipelines, deterministic under a seed.

A pipeline is a pure function of (seed, epoch): the order of the images and every random
number of the augmentation. A run that was interrupted therefore sees the same batches
again when it resumes.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, one_of
from larq_nobn.zoo.preprocessing import STATISTICS

# Independent random streams from one seed.
_CROP, _FLIP, _MIX, _BOX = 1, 2, 3, 4


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


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    Attributes:
        name: Its name in `SOURCES`.
        train: Images, uint8 of shape `(examples, height, width, channels)`, and labels,
            int64 of shape `(examples,)`.
        test: The same for the held-out part.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def source(self) -> Source:
        """Its row in `SOURCES`."""
        return SOURCES[self.name]

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
        name: One of `SOURCES`.
        data_dir: tensorflow-datasets folder; by default `TFDS_DATA_DIR`, or tfds's own.
            For ImageNet also a folder with `train` and `val`, a folder a class in each.
        limit: Take only so many training images, and as many test images at most.

    Returns:
        An `Images`, or an object with the same `source`, `train_size`, `train_batches`
        and `test_batches`.

    Raises:
        UserError: If the name is unknown, or the data are missing or unreadable.
    """
    one_of("dataset", name, SOURCES)
    if limit is not None and limit < 1:
        raise UserError(
            f"`limit` must be a positive number of images. Received: {limit}. "
            "Fix: leave it out to take all."
        )
    if name == "imagenet":
        from larq_nobn.training.imagenet import open_imagenet

        return open_imagenet(data_dir, limit)
    parts = _load_digits() if SOURCES[name].embedded else _load_tfds(name, data_dir)
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
        builder = tfds.builder(name, data_dir=data_dir)
        if not Path(builder.data_path).is_dir():
            builder.download_and_prepare()
        parts = [
            tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
            for split in ("train", "test")
        ]
    return [(part["image"], part["label"].astype(np.int64)) for part in parts]


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
            "`data_dir` must be a tensorflow-datasets folder. Received: "
            f"{data_dir}, which is no folder. Fix: check the path, or leave it out to "
            "download the data."
        )
    # tfds raises whatever its parsers, file systems and downloaders raise.
    failures = (OSError, ValueError, AssertionError, KeyError, tf.errors.OpError)
    try:
        yield
    except (*failures, ImportError) as error:
        where = data_dir or "tensorflow-datasets' default folder"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The data set {name} must be readable through tensorflow-datasets in "
            f"{where}. Received: {type(error).__name__}: {reason} Fix: pass the folder "
            "of prepared data with --data-dir or TFDS_DATA_DIR, or connect to the "
            "network once to download it."
        ) from error


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
    # Constants: captured once, not copied per batch.
    with tf.device("CPU"):
        x, y = tf.constant(x), tf.constant(y)

    def batch(index: tf.Tensor, step: tf.Tensor):
        random = augmentation_seed(seed, epoch, step)
        augmented = augment(tf.gather(x, index), random, images.source, padding)
        labels = tf.one_hot(tf.gather(y, index), images.source.num_classes)
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


def check_batch_size(batch_size: int, examples: int) -> None:
    """Check that there is at least one whole batch.

    Raises:
        UserError: If there is none.
    """
    if not 0 < batch_size <= examples:
        raise UserError(
            f"`batch_size` must be from 1 to the number of training images, {examples}."
            f" Received: batch_size={batch_size}. Fix: make it smaller."
        )


def test_batches(images: Images, batch_size: int) -> tf.data.Dataset:
    """The held-out images in order, normalized.

    Args:
        images: The data set.
        batch_size: Images per batch; the last batch may be smaller.

    Returns:
        Batches `(images, labels)` as in `train_batches`.
    """
    classes = images.source.num_classes
    return (
        tf.data.Dataset.from_tensor_slices(images.test)
        .batch(batch_size)
        .map(lambda x, y: (normalize(x, images.name), tf.one_hot(y, classes)))
        .prefetch(tf.data.AUTOTUNE)
    )


def normalize(images: tf.Tensor, dataset: str) -> tf.Tensor:
    """Normalize a batch of pixel values to Keras's float type.

    See `zoo.preprocess_input`.
    """
    mean, std = np.array(STATISTICS[dataset].mean), np.array(STATISTICS[dataset].std)
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
    # What remains of the image itself, pixel by pixel.
    keep = tf.where(boxed, 1 - box, tf.fill([height, width, 1], share))
    share = tf.reduce_mean(keep)
    other = images[::-1]
    return (
        keep * images + (1 - keep) * other,
        share * labels + (1 - share) * labels[::-1],
    )


def augment(
    images: tf.Tensor, seed: tf.Tensor, source: Source, padding: str = "zero"
) -> tf.Tensor:
    """Crop each padded image at random and mirror it at random.

    Only gathers and stateless random numbers of a named algorithm, so that the same
    code works inside an exported XLA train step (where it draws other numbers, because
    XLA counts them in another order).

    Args:
        images: uint8 of shape `(batch, height, width, channels)`.
        seed: int64 of shape `(2,)`.
        source: How to augment.
        padding: `"zero"` or `"reflect"`.

    Returns:
        Tensor of the shape and dtype of `images`.
    """
    batch = tf.shape(images)[0]
    height, width = images.shape[1:3]
    pad = source.crop_padding

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
    if source.flip:
        mirror = random(_FLIP, [batch, 1, 1, 1], 2) > 0
        images = tf.where(mirror, images[:, :, ::-1], images)
    return images
