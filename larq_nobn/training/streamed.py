"""Data sets that stay on disk, ImageNet for one: the reference's augmentation.

Deterministic under a seed.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError, first_line
from larq_nobn.datasets import DATASETS, Dataset
from larq_nobn.training.pictures import Pictures, PreparedPictures, decode, fitted
from larq_nobn.training.pipeline import (
    augment,
    augmentation_seed,
    check_batch_size,
    mix,
    normalize,
    readable,
)

# Principal components of ImageNet's colours (AlexNet, Section 4.1), as published with
# the lighting augmentation that the reference uses.
_EIGENVALUES = np.float32([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.float32(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)
_LIGHTING, _AREA, _SHUFFLE_BUFFER = 0.1, (0.08, 1.0), 16_384
# The part of a test image's shorter side that is shown: 224 of 256 pixels.
_SHOWN = 224 / 256


@dataclass(frozen=True)
class StreamedImages:
    """The two parts of a data set on disk, as data sets of `(encoded JPEG, label)`.

    Attributes:
        train: Function from a seed to the training part in the order of that seed.
        test: The validation part.
        train_size: Number of training images.
        name: The data set's name.
        files: The pictures' files, if each is one.
        row: What the data set is; by default its row in `datasets.DATASETS`.
        pictures: The parts themselves, of any data set without readers of its own.
    """

    train: Callable[[int], tf.data.Dataset]
    test: tf.data.Dataset
    train_size: int
    name: str
    files: tuple[str, ...] = ()
    row: Dataset = None
    pictures: tuple[Pictures | PreparedPictures, ...] = ()

    def __post_init__(self):
        if self.row is None:
            object.__setattr__(self, "row", DATASETS[self.name])

    @property
    def test_size(self) -> int:
        """Number of test images."""
        return len(self.pictures[1])

    def held_out(self, share: float, seed) -> "StreamedImages":
        """A share of the training images in place of the test images."""
        return stream(self.name, self.row, *self.pictures[0].split(share, seed))

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        padding: str = "zero",
        mixup: float = 0.0,
        cutmix: float = 0.0,
        start: int = 0,
    ) -> tf.data.Dataset:
        """One epoch; arguments and result as in `data.train_batches`.

        `padding` has no effect on resized crops, which come from inside the image.
        """
        check_batch_size(batch_size, self.train_size)
        row, classes = self.row, self.row.num_classes
        is_resized = row.crop == "resized"

        def prepare(index, item):
            image, label = item
            if not is_resized:
                image = fitted(decode(image, row.input_shape[-1]), row)
            else:
                seed_ = augmentation_seed(seed, epoch, index)
                image = augmented_crop(image, seed_, row)
            return image, tf.one_hot(label, classes)

        def finish(step, item):
            images, labels = item
            random = augmentation_seed(seed, epoch, step)
            if not is_resized:
                images = normalize(augment(images, random, row, padding), row)
            return mix(images, labels, random, mixup, cutmix)

        order = int(np.random.default_rng([seed, epoch]).integers(2**31))
        examples = self.train(order).enumerate().skip(start * batch_size)
        examples = examples.map(prepare, tf.data.AUTOTUNE, deterministic=True)
        batches = examples.batch(batch_size, drop_remainder=True)
        if mixup or cutmix or not is_resized:
            batches = batches.enumerate(start).map(finish)
        return batches.prefetch(tf.data.AUTOTUNE)

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        """The validation images in order; result as in `data.test_batches`."""
        row = self.row

        def prepare(image, label):
            if row.crop == "resized":
                image = central_crop(image, row)
            else:
                image = normalize(fitted(decode(image, row.input_shape[-1]), row), row)
            return image, tf.one_hot(label, row.num_classes)

        return (
            self.test.map(prepare, tf.data.AUTOTUNE)
            .batch(batch_size)
            .prefetch(tf.data.AUTOTUNE)
        )


def stream(
    name: str,
    row: Dataset,
    train: Pictures | PreparedPictures,
    test: Pictures | PreparedPictures,
    in_memory: bool = False,
) -> StreamedImages:
    """Read pictures whenever they are needed.

    Args:
        name: The data set's name.
        row: What it is.
        train: The pictures to train on.
        test: The held-out ones.
        in_memory: Whether to hold the encoded pictures in memory.

    Returns:
        The data set.
    """
    held = [p.in_memory() if in_memory else p for p in (train, test)]
    return StreamedImages(
        held[0].shuffled,
        held[1].encoded(),
        len(train),
        name,
        row=row,
        # With the files' names.
        pictures=(train, test),
    )


@contextlib.contextmanager
def broken_pictures_named(images: object) -> Iterator[None]:
    """Say which picture it is that TensorFlow cannot read, in whatever goes over them.

    Args:
        images: The data set.

    Raises:
        UserError: In place of TensorFlow's error, if one of the files is the cause.
    """
    try:
        yield
    except tf.errors.OpError as error:
        for path in getattr(images, "files", ()):
            try:
                encoded = tf.io.read_file(path)
                tf.io.extract_jpeg_shape(encoded)
                tf.io.decode_jpeg(encoded, channels=3)
            except tf.errors.OpError as cause:
                raise UserError(
                    "Every picture must be a readable JPEG",
                    got=f"{path}: {first_line(cause)}",
                    fix="replace it, or remove it",
                ) from error
        for pictures in getattr(images, "pictures", ()):
            pictures.name_broken()
        raise


def augmented_crop(encoded: tf.Tensor, seed: tf.Tensor, row: Dataset) -> tf.Tensor:
    """Random resized crop, PCA lighting, mirror and normalization.

    Args:
        encoded: A picture.
        seed: int64 of shape `(2,)`.
        row: The data set.

    Returns:
        float32 of the data set's input shape.
    """
    channels = row.input_shape[-1]
    is_jpeg = tf.io.is_jpeg(encoded)
    shape = tf.cond(
        is_jpeg,
        lambda: tf.io.extract_jpeg_shape(encoded),
        lambda: tf.shape(decode(encoded, channels)),
    )
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=_AREA,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], size[:2]], 0)
    image = tf.cond(
        is_jpeg,
        # Decodes no more than it needs.
        lambda: tf.image.decode_and_crop_jpeg(encoded, window, channels),
        lambda: tf.slice(
            decode(encoded, channels), begin, tf.concat([size[:2], [channels]], 0)
        ),
    )
    image = tf.ensure_shape(image, [None, None, channels])
    image = tf.image.resize(image, row.input_shape[:2], antialias=True) / 255.0
    if channels == 3:
        draw = tf.random.stateless_normal([3], seed, stddev=_LIGHTING, alg="philox")
        image += tf.linalg.matvec(_EIGENVECTORS, draw * _EIGENVALUES)
    if row.flip:
        image = tf.image.stateless_random_flip_left_right(image, seed)
    return normalize(image * 255.0, row)


def central_crop(encoded: tf.Tensor, row: Dataset) -> tf.Tensor:
    """Scale (ImageNet's shorter side to 256), crop (224) from the centre, normalize.

    Args:
        encoded: A picture.
        row: The data set.

    Returns:
        float32 of the data set's input shape.
    """
    height, width, channels = row.input_shape
    image = decode(encoded, channels)
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    scaled = tf.cast(
        tf.round(shape * round(height / _SHOWN) / tf.reduce_min(shape)), tf.int32
    )
    image = tf.image.resize(image, scaled, antialias=True)
    image = tf.image.resize_with_crop_or_pad(image, height, width)
    return normalize(image, row)


def open_streamed(
    name: str,
    data_dir: str | None,
    limit: int | None = None,
    row: Dataset | None = None,
) -> StreamedImages:
    """Open a data set in a folder of class folders, or in tensorflow-datasets.

    Args:
        name: The data set.
        data_dir: A folder with `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG` (all
            classes; labels are their alphabetical order), or a tensorflow-datasets
            folder.
        limit: Take only so many images of each part.
        row: What it is, if not what `datasets.DATASETS` says.

    Returns:
        The data set.

    Raises:
        UserError: If the data are missing or unreadable.
    """
    if data_dir is not None and (Path(data_dir) / "train").is_dir():
        return _from_folders(name, Path(data_dir), limit, row)
    import tensorflow_datasets as tfds

    source, test_split = DATASETS[name].source or name, DATASETS[name].test_split
    with readable(source, data_dir):
        builder = tfds.builder(source, data_dir=data_dir)
        if not Path(builder.data_path).is_dir():
            builder.download_and_prepare()
        decoders = {"image": tfds.decode.SkipDecoding()}
        train, test = (
            builder.as_dataset(split=split, decoders=decoders, as_supervised=True)
            for split in ("train", test_split)
        )
        size = builder.info.splits["train"].num_examples
    if limit is not None:
        train, test, size = train.take(limit), test.take(limit), min(size, limit)
    return StreamedImages(
        lambda seed: train.shuffle(_SHUFFLE_BUFFER, seed), test, size, name, row=row
    )


def _from_folders(
    name: str, folder: Path, limit: int | None, row: Dataset | None
) -> StreamedImages:
    classes = sorted(path.name for path in (folder / "train").iterdir())
    expected = DATASETS[name].num_classes
    if len(classes) != expected:
        raise UserError(
            f"The train folder of {name} must have {expected} class folders",
            got=f"{folder / 'train'} with {len(classes)}",
            fix="complete the data; labels are the alphabetical order of all classes",
        )
    parts = []
    for part in ("train", "val"):
        paths = sorted(map(str, (folder / part).glob("*/*")))[:limit]
        if not paths:
            raise UserError(
                "A folder of images must hold train/CLASS/*.JPEG and val/CLASS/*.JPEG",
                got=f"{folder}, whose {part} has no images",
                fix="sort the images into class folders",
            )
        labels = [classes.index(Path(path).parent.name) for path in paths]
        parts.append((np.array(paths), np.array(labels, np.int64)))
    (paths, labels), test = parts
    validation = map(str, test[0])

    def read(path, label):
        return tf.io.read_file(path), label

    def train(seed: int) -> tf.data.Dataset:
        order = np.random.default_rng(seed).permutation(len(paths))
        examples = tf.data.Dataset.from_tensor_slices((paths[order], labels[order]))
        return examples.map(read, tf.data.AUTOTUNE, deterministic=True)

    test = tf.data.Dataset.from_tensor_slices(test).map(read, tf.data.AUTOTUNE)
    files = (*map(str, paths), *validation)
    return StreamedImages(train, test, len(paths), name, files, row)
