"""Encoded pictures of any size and kind: decoding, fitting, measuring.

What `tf.io.decode_image` takes is taken: JPEG, PNG, BMP and the first frame of a GIF;
grey ones, with transparency, and of mixed sizes.
"""

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from larq_nobn._errors import UserError, first_line
from larq_nobn.datasets import Dataset, DataSettings

# What is measured is measured on so many training images at most.
_MEASURED = 50_000
# The side of images of a data set that says nothing else, at most.
_LARGEST_SIDE = 224
_SHUFFLE_BUFFER = 16_384


@dataclass(frozen=True)
class Pictures:
    """Encoded pictures with labels: files, or the bytes themselves.

    Attributes:
        items: Paths or encoded pictures, bytes, an array of objects.
        labels: int64 of the same length.
        are_files: Whether `items` are paths.
    """

    items: np.ndarray
    labels: np.ndarray
    are_files: bool

    def __len__(self):
        return len(self.items)

    def at(self, index: np.ndarray) -> "Pictures":
        """Some of them."""
        return Pictures(self.items[index], self.labels[index], self.are_files)

    def limited(self, limit: int | None) -> "Pictures":
        """At most so many, of all classes, in their order."""
        if limit is None or limit >= len(self):
            return self
        chosen = np.random.default_rng(0).permutation(len(self))[:limit]
        return self.at(np.sort(chosen))

    def split(self, share: float, seed=0) -> tuple["Pictures", "Pictures"]:
        """Hold out a share of each class, the same in every process.

        Args:
            share: From 0 to 1.
            seed: Anything that `numpy.random.default_rng` takes.

        Returns:
            The rest and what is held out, in their order.
        """
        rng = np.random.default_rng(seed)
        held = np.zeros(len(self), bool)
        for label in np.unique(self.labels):
            members = rng.permutation(np.flatnonzero(self.labels == label))
            # Both parts have an image of every class.
            count = min(max(1, round(share * len(members))), len(members) - 1)
            held[members[:count]] = True
        return self.at(np.flatnonzero(~held)), self.at(np.flatnonzero(held))

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Once, and not for each epoch: they are as large as the data."""
        with tf.device("CPU"):
            return tf.constant(self.items, tf.string), tf.constant(self.labels)

    def encoded(self, order: np.ndarray | None = None) -> tf.data.Dataset:
        """Pairs of an encoded picture and its label, in an order."""
        items, labels = self._tensors

        def read(index):
            item = items[index]
            return tf.io.read_file(item) if self.are_files else item, labels[index]

        order = np.arange(len(self)) if order is None else order
        indices = tf.data.Dataset.from_tensor_slices(order)
        return indices.map(read, tf.data.AUTOTUNE, deterministic=True)

    def shuffled(self, seed: int) -> tf.data.Dataset:
        """The same in the order of a seed."""
        return self.encoded(np.random.default_rng(seed).permutation(len(self)))

    @property
    def encoded_bytes(self) -> int:
        """What the encoded pictures take."""
        return sum(map(os.path.getsize if self.are_files else len, self.items))

    def in_memory(self) -> "Pictures":
        """The same, held in memory."""
        if not self.are_files:
            return self
        items = np.empty(len(self), object)
        items[:] = [Path(os.fsdecode(item)).read_bytes() for item in self.items]
        return Pictures(items, self.labels, False)

    def mapped(self, function: Callable) -> tf.data.Dataset:
        """A function of the encoded picture, over all of them in order."""
        return _mapped(self.encoded(), function)

    def name_broken(self) -> None:
        """Say which picture cannot be read, if one cannot.

        Raises:
            UserError: If one of them is the cause.
        """
        for number, item in enumerate(self.items):
            try:
                decode(tf.io.read_file(item) if self.are_files else tf.constant(item))
            except tf.errors.OpError as error:
                where = os.fsdecode(item) if self.are_files else f"example {number}"
                raise UserError(
                    "Every picture must be a readable JPEG, PNG, BMP or GIF",
                    got=f"{where}: {first_line(error)}",
                    fix="replace it, or remove it",
                ) from error


def _mapped(encoded: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    return encoded.map(
        lambda item, _: function(item), tf.data.AUTOTUNE, deterministic=True
    )


@dataclass(frozen=True)
class PreparedPictures:
    """A part of a prepared set of tensorflow-datasets, with `Pictures`' methods.

    Attributes:
        builder: Its builder.
        part: A split, or a slice of one.
        keys: The features of image and label.
    """

    builder: Any
    part: str
    keys: tuple[str, str]

    def __len__(self):
        return self.builder.info.splits[self.part].num_examples

    @property
    def encoded_bytes(self) -> int:
        """What the encoded pictures take."""
        split = self.builder.info.splits[self.part.partition("[")[0]]
        return split.num_bytes * len(self) // max(split.num_examples, 1)

    def limited(self, limit: int | None) -> "PreparedPictures":
        """At most so many, the first."""
        if limit is None or limit >= len(self):
            return self
        start, end = self._range()
        return self._slice(start, min(end, start + limit))

    def split(self, share: float, seed=0) -> tuple["PreparedPictures", ...]:
        """The rest, and a share of them, the last."""
        start, end = self._range()
        middle = end - min(max(1, round(share * len(self))), len(self) - 1)
        return self._slice(start, middle), self._slice(middle, end)

    def _range(self) -> tuple[int, int]:
        found = re.fullmatch(r".*\[(\d+):(\d+)\]", self.part)
        return tuple(map(int, found.groups())) if found else (0, len(self))

    def _slice(self, start: int, end: int) -> "PreparedPictures":
        part = f"{self.part.partition('[')[0]}[{start}:{end}]"
        return PreparedPictures(self.builder, part, self.keys)

    def encoded(self) -> tf.data.Dataset:
        """Pairs of an encoded picture and its label."""
        import tensorflow_datasets as tfds

        image, label = self.keys
        examples = self.builder.as_dataset(
            split=self.part, decoders={image: tfds.decode.SkipDecoding()}
        )
        return examples.map(lambda x: (x[image], tf.cast(x[label], tf.int64)))

    def shuffled(self, seed: int) -> tf.data.Dataset:
        """The same in the order of a seed, as far as a buffer goes."""
        return self.encoded().shuffle(_SHUFFLE_BUFFER, seed)

    def in_memory(self) -> Pictures:
        """The same, held in memory."""
        batches = list(self.encoded().batch(1024).as_numpy_iterator())
        if not batches:
            return Pictures(np.empty(0, object), np.empty(0, np.int64), False)
        items, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
        return Pictures(items, labels, False)

    def mapped(self, function: Callable) -> tf.data.Dataset:
        """A function of the encoded picture, over all of them in order."""
        return _mapped(self.encoded(), function)

    def name_broken(self) -> None:
        """Nothing: they have no names."""


def decode(encoded: tf.Tensor, channels: int | None = None) -> tf.Tensor:
    """Decode a picture.

    Args:
        encoded: JPEG, PNG, BMP or GIF.
        channels: 1 or 3; by default as many as it has, transparency left out.

    Returns:
        uint8 of shape `(height, width, channels)`.
    """
    if channels is None:
        return _decode_any(encoded)
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels),
        lambda: _with_channels(_decode_any(encoded), channels),
    )
    return _of_depth(image, channels)


def _decode_any(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(encoded, expand_animations=False)
    image.set_shape([None, None, None])
    depth = tf.shape(image)[-1]
    # 2 and 4 channels: grey and colour with transparency.
    return image[..., : depth - (1 - depth % 2)]


def _with_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    if channels == 3:
        shape = tf.concat([tf.shape(image)[:2], [3]], 0)
        return tf.broadcast_to(image, shape)
    return tf.cond(
        tf.shape(image)[-1] == 3,
        lambda: tf.image.rgb_to_grayscale(_of_depth(image, 3)),
        lambda: _of_depth(image, 1),
    )


def _of_depth(image: tf.Tensor, channels: int) -> tf.Tensor:
    return tf.ensure_shape(image, [None, None, channels])


def fitted(image: tf.Tensor, row: Dataset) -> tf.Tensor:
    """Scale the shorter side to the input's and take the middle.

    Args:
        image: uint8 of shape `(height, width, channels)`.
        row: The data set.

    Returns:
        uint8 of the data set's input shape; the same image if it has that.
    """
    height, width, channels = row.input_shape
    size = tf.shape(image)[:2]

    def fit():
        sides = tf.cast(size, tf.float32)
        # The shorter of what is left of each side covers the input.
        scale = tf.reduce_max(tf.constant([height, width], tf.float32) / sides)
        scaled = tf.maximum(tf.cast(tf.round(sides * scale), tf.int32), [height, width])
        large = tf.image.resize(image, scaled, antialias=True)
        large = tf.image.resize_with_crop_or_pad(large, height, width)
        return tf.cast(tf.clip_by_value(tf.round(large), 0, 255), tf.uint8)

    same = tf.reduce_all(size == [height, width])
    image = tf.cond(same, lambda: image, fit)
    return tf.ensure_shape(image, [height, width, channels])


def decoded_all(pictures: Pictures | PreparedPictures, row: Dataset) -> np.ndarray:
    """All of them, fitted, in memory.

    Raises:
        UserError: If one cannot be read.
    """
    images = np.empty((len(pictures), *row.input_shape), np.uint8)
    channels = row.input_shape[-1]
    batches = pictures.mapped(lambda item: fitted(decode(item, channels), row))
    start = 0
    try:
        for batch in batches.batch(256).prefetch(1).as_numpy_iterator():
            images[start : start + len(batch)] = batch
            start += len(batch)
    except tf.errors.OpError:
        pictures.name_broken()
        raise
    return images


def measured(
    pictures: Pictures | PreparedPictures, settings: DataSettings
) -> DataSettings:
    """Measure what the settings leave open.

    The size is the median of the shorter sides, 224 at most. Where all images have just
    that size, as CIFAR's, they are cropped with a border; others as ImageNet's. Colour
    images are mirrored, grey ones, often characters, are not.

    Args:
        pictures: The training images.
        settings: What is given.

    Returns:
        The settings with size, crop, flip, mean and std.

    Raises:
        UserError: If a picture cannot be read.
    """
    given = settings.filled(DataSettings(classes=()))
    if given.describes_all:
        return settings
    # Sizes and channels alone need fewer.
    sample = pictures.limited(_MEASURED if settings.mean is None else 1000)

    def describe(item):
        image = decode(item)
        size = tf.shape(image)
        # Sums of whole numbers: exact in any order.
        x = tf.cast(image, tf.float64)
        sums = tf.stack([tf.reduce_mean(x, [0, 1]), tf.reduce_mean(x * x, [0, 1])])
        sums = tf.reshape(sums, [2, -1])
        return size, tf.broadcast_to(sums, [2, 3])

    rows = []
    batches = sample.mapped(describe).batch(256).prefetch(1).as_numpy_iterator()
    try:
        with tqdm(
            desc="measuring", total=len(sample), leave=False, disable=None, unit="img"
        ) as bar:
            for row in batches:
                rows.append(row)
                bar.update(len(row[0]))
    except tf.errors.OpError:
        sample.name_broken()
        raise
    sizes, moments = (np.concatenate(part) for part in zip(*rows, strict=True))
    moments = moments.mean(axis=0)
    mean = moments[0] / 255
    std = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 1)) / 255
    grey = (sizes[:, 2] == 1).all()
    channels = slice(1 if grey else 3)
    shorter = sizes[:, :2].min(axis=1)
    size = settings.size or min(_LARGEST_SIDE, int(np.median(shorter)))
    found = DataSettings(
        size=size,
        crop="padded" if (sizes[:, :2] == size).all() else "resized",
        flip=not grey,
        # Digits enough, and the same ones when it is measured again.
        mean=tuple(np.round(mean[channels], 4).tolist()),
        std=tuple(np.round(std[channels], 4).tolist()),
    )
    return settings.filled(found)
