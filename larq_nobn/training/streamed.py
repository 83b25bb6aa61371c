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
from larq_nobn.training.pipeline import (
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
        name: Its name in `datasets.DATASETS`.
        files: The pictures' files, if each is one.
    """

    train: Callable[[int], tf.data.Dataset]
    test: tf.data.Dataset
    train_size: int
    name: str
    files: tuple[str, ...] = ()

    @property
    def row(self) -> Dataset:
        """Its row in `datasets.DATASETS`."""
        return DATASETS[self.name]

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

        `padding` has no effect: crops come from inside the image.
        """
        check_batch_size(batch_size, self.train_size)
        classes = self.row.num_classes

        def decode(index, item):
            image, label = item
            seed_ = augmentation_seed(seed, epoch, index)
            return augmented_crop(image, seed_, self.name), tf.one_hot(label, classes)

        def mixed(step, item):
            random = augmentation_seed(seed, epoch, step)
            return mix(*item, random, mixup, cutmix)

        order = int(np.random.default_rng([seed, epoch]).integers(2**31))
        examples = self.train(order).enumerate().skip(start * batch_size)
        examples = examples.map(decode, tf.data.AUTOTUNE, deterministic=True)
        batches = examples.batch(batch_size, drop_remainder=True)
        if mixup or cutmix:
            batches = batches.enumerate(start).map(mixed)
        return batches.prefetch(tf.data.AUTOTUNE)

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        """The validation images in order; result as in `data.test_batches`."""
        classes = self.row.num_classes
        return (
            self.test.map(
                lambda image, label: (
                    central_crop(image, self.name),
                    tf.one_hot(label, classes),
                ),
                tf.data.AUTOTUNE,
            )
            .batch(batch_size)
            .prefetch(tf.data.AUTOTUNE)
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
        raise


def augmented_crop(
    encoded: tf.Tensor, seed: tf.Tensor, name: str = "imagenet"
) -> tf.Tensor:
    """Random resized crop, PCA lighting, mirror and normalization.

    Args:
        encoded: A JPEG.
        seed: int64 of shape `(2,)`.
        name: The data set.

    Returns:
        float32 of the data set's input shape.
    """
    shape = tf.io.extract_jpeg_shape(encoded)
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
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    image = (
        tf.image.resize(image, DATASETS[name].input_shape[:2], antialias=True) / 255.0
    )
    draw = tf.random.stateless_normal([3], seed, stddev=_LIGHTING, alg="philox")
    image += tf.linalg.matvec(_EIGENVECTORS, draw * _EIGENVALUES)
    image = tf.image.stateless_random_flip_left_right(image, seed)
    return normalize(image * 255.0, name)


def central_crop(encoded: tf.Tensor, name: str = "imagenet") -> tf.Tensor:
    """Scale (ImageNet's shorter side to 256), crop (224) from the centre, normalize.

    Args:
        encoded: A JPEG.
        name: The data set.

    Returns:
        float32 of the data set's input shape.
    """
    height, width, _ = DATASETS[name].input_shape
    image = tf.image.decode_jpeg(encoded, channels=3)
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    scaled = tf.cast(
        tf.round(shape * round(height / _SHOWN) / tf.reduce_min(shape)), tf.int32
    )
    image = tf.image.resize(image, scaled, antialias=True)
    image = tf.image.resize_with_crop_or_pad(image, height, width)
    return normalize(image, name)


def open_streamed(
    name: str, data_dir: str | None, limit: int | None = None
) -> StreamedImages:
    """Open a data set in a folder of class folders, or in tensorflow-datasets.

    Args:
        name: The data set.
        data_dir: A folder with `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG` (all
            classes; labels are their alphabetical order), or a tensorflow-datasets
            folder.
        limit: Take only so many images of each part.

    Returns:
        The data set.

    Raises:
        UserError: If the data are missing or unreadable.
    """
    if data_dir is not None and (Path(data_dir) / "train").is_dir():
        return _from_folders(name, Path(data_dir), limit)
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
        lambda seed: train.shuffle(_SHUFFLE_BUFFER, seed), test, size, name
    )


def _from_folders(name: str, folder: Path, limit: int | None) -> StreamedImages:
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
    return StreamedImages(train, test, len(paths), name, files)
