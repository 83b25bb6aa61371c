"""Data sets and their input pipelines, deterministic under a seed.

A pipeline is a pure function of (seed, epoch): the order of the images and every random
number of the augmentation. A run that was interrupted therefore sees the same batches
again when it resumes.
"""

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, check_number
from larq_nobn.datasets import (
    DATASETS,
    TFDS,
    Dataset,
    DataSettings,
    check_name,
    row_of,
    settings_of,
)
from larq_nobn.training.class_folders import has_parts, read_folder
from larq_nobn.training.pictures import (
    Pictures,
    PreparedPictures,
    decoded_all,
    measured,
)
from larq_nobn.training.pipeline import (
    augment,
    augmentation_seed,
    check_batch_size,
    mix,
    normalize,
    readable,
)
from larq_nobn.training.prepared import prepared_builder, read_prepared
from larq_nobn.training.streamed import StreamedImages, open_streamed, stream

# Data sets of at most so many bytes are held in memory: decoded ones, fitted to the
# input, or encoded ones where crops are of any size.
MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    Attributes:
        name: The data set's name.
        train: Images, uint8 of shape `(examples, height, width, channels)`, and labels,
            int64 of shape `(examples,)`.
        test: The same for the held-out part.
        row: What the data set is; by default its row in `datasets.DATASETS`.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    row: Dataset = None

    def __post_init__(self):
        if self.row is None:
            object.__setattr__(self, "row", DATASETS[self.name])

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.train[0])

    @property
    def test_size(self) -> int:
        """Number of test images."""
        return len(self.test[0])

    def held_out(self, share: float, seed) -> "Images":
        """A share of the training images in place of the test images."""
        x, y = self.train
        order = np.random.default_rng(seed).permutation(len(x))
        held = max(1, round(share * len(x)))
        parts = [(x[part], y[part]) for part in (order[held:], order[:held])]
        return Images(self.name, *parts, self.row)

    def train_batches(self, *args, **kwargs) -> tf.data.Dataset:
        """One epoch of training batches; see `train_batches`."""
        return train_batches(self, *args, **kwargs)

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        """The held-out images; see `test_batches`."""
        return test_batches(self, batch_size)


def load_images(
    name: str,
    data_dir: str | None = None,
    limit: int | None = None,
    settings: DataSettings | None = None,
    test_only: bool = False,
) -> Images | StreamedImages:
    """Open a data set: small ones are read into memory, large ones stay on disk.

    Args:
        name: One of `datasets.DATASETS`; `"tfds:NAME"` for any image set of
            tensorflow-datasets; or the path, with a `/` in it, of a folder of class
            folders (`train/CLASS` and `val/CLASS`, or `CLASS` alone) or of a prepared
            set of tensorflow-datasets.
        data_dir: tensorflow-datasets folder; by default `TFDS_DATA_DIR`, or tfds's own.
            For ImageNet and its parts also a folder with `train` and `val`, a folder a
            class in each.
        limit: Take only so many training images, and as many test images at most.
        settings: What is to be other than usual. What they leave open of a data set
            without a row in `datasets.DATASETS` is measured.
        test_only: Leave out the training images, which take time to read.

    Returns:
        An `Images`, or an object with the same `row`, `train_size`, `train_batches`
        and `test_batches`.

    Raises:
        UserError: If the name is unknown, or the data are missing or unreadable.
    """
    check_name("dataset", name)
    if limit is not None:
        check_number("limit", limit, "leave it out to take all images", kind=int)
    settings = settings or DataSettings()
    row = DATASETS.get(name)
    if row is None:
        return _open_own(name, _source(name, data_dir), limit, settings, test_only)
    wanted = row_of(name, settings)
    if row.streamed:
        return open_streamed(name, data_dir, limit, wanted)
    if row.folders or _needs_pictures(row, wanted, settings):
        if row.embedded:
            raise UserError(
                f"The images of {name} have one size, and are held in memory",
                got=", ".join(f"{k}={getattr(settings, k)!r}" for k in _PICTURES),
                fix="leave out size, storage and crop='resized'",
            )
        settings = settings.filled(settings_of(row))
        source = _source(name, data_dir, row)
        return _open_own(name, source, limit, settings, test_only)
    if row.embedded:
        parts = _load_digits()
    else:
        parts = _load_tfds(name, data_dir, test_only)
    train, test = ((x[:limit], y[:limit]) for x, y in parts)
    return Images(name, train, test, wanted)


# Settings that need the pictures themselves.
_PICTURES = ("size", "crop", "storage")


def _needs_pictures(row: Dataset, wanted: Dataset, settings: DataSettings) -> bool:
    return (
        wanted.input_shape != row.input_shape
        or wanted.crop == "resized"
        or settings.storage is not None
    )


def _source(name: str, data_dir: str | None, row: Dataset | None = None):
    """What reads a data set: a function of the held-out share and `test_only`."""
    folder = Path(name) if row is None else Path(data_dir or "")
    is_folder = not name.startswith(TFDS) if row is None else has_parts(folder)
    if is_folder and not (folder / "dataset_info.json").is_file():
        return lambda share, _: read_folder(folder, share)
    if is_folder:
        return functools.partial(read_prepared, str(folder), None, None)
    if row is not None and row.folders and row.source is None:
        raise UserError(
            f"{name} must be a folder with train/CLASS and val/CLASS",
            got="no --data-dir" if data_dir is None else f"--data-dir {data_dir}",
            fix="get it from where it is published, and give its folder",
        )
    source = name.removeprefix(TFDS) if row is None else row.source or name
    split = None if row is None else row.test_split
    return functools.partial(read_prepared, source, data_dir, split)


def _open_own(
    name: str, source, limit: int | None, settings: DataSettings, test_only: bool
) -> Images | StreamedImages:
    """Open any pictures in classes."""
    classes, train, test = source(settings.test_share, test_only)
    row = DATASETS.get(name)
    expected = settings.classes or (row.classes if row else ())
    if expected and tuple(expected) != classes:
        differing = sorted(set(classes) ^ set(expected)) or ["their order"]
        raise UserError(
            f"{name} must have the classes that the network was made for, "
            f"{len(expected)}",
            got=f"{len(classes)}; others are {', '.join(differing[:5])}",
            fix="give the data that it was made for",
        )
    if row and len(classes) != row.num_classes:
        raise UserError(
            f"{name} must have {row.num_classes} classes",
            got=f"{len(classes)} ({', '.join(classes[:3])}, ...)",
            fix="complete the data, or give the folder's path as --data",
        )
    # Of all training images: what is measured does not depend on a limit.
    settings = measured(train, replace(settings, classes=classes))
    described = row_of(name, settings)
    if row is not None:
        described = replace(described, stem=row.stem)
    if test_only:
        train = Pictures(np.empty(0, object), np.empty(0, np.int64), True)
    train, test = train.limited(limit), test.limited(limit)
    is_resized = described.crop == "resized"
    if is_resized:
        size = train.encoded_bytes + test.encoded_bytes
    else:
        size = (len(train) + len(test)) * math.prod(described.input_shape)
    storage = settings.storage or ("memory" if size <= MEMORY_BYTES else "disk")
    if storage == "disk" or is_resized:
        return stream(name, described, train, test, storage == "memory")
    parts = []
    for part in (train, test):
        # One pass over what is not in memory.
        part = part.in_memory() if isinstance(part, PreparedPictures) else part
        parts.append((decoded_all(part, described), part.labels))
    return Images(name, *parts, described)


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


def _load_tfds(
    name: str, data_dir: str | None, test_only: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds

    with readable(name, data_dir):
        row = DATASETS[name]
        builder = prepared_builder(row.source or name, data_dir)
        parts = [
            tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
            for split in ("train", row.test_split)[test_only:]
        ]
    pairs = [(part["image"], part["label"].astype(np.int64)) for part in parts]
    x, y = pairs[-1]
    return [(x[:0], y[:0]), *pairs] if test_only else pairs


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
        return mix(normalize(augmented, images.row), labels, random, mixup, cutmix)

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
        .map(lambda x, y: (normalize(x, images.row), tf.one_hot(y, classes)))
        .prefetch(tf.data.AUTOTUNE)
    )
