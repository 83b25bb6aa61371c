"""Any image set of tensorflow-datasets."""

from pathlib import Path
from typing import Any

from larq_nobn._errors import UserError
from larq_nobn.training.class_folders import DEFAULT_SHARE
from larq_nobn.training.pictures import Pictures, PreparedPictures
from larq_nobn.training.pipeline import readable

_TESTS = ("test", "validation", "val")
# Sets of at most so many encoded bytes are read at once.
_READ_BYTES = 1 << 28


def prepared_builder(name: str, data_dir: str | None) -> Any:
    """The builder of a set that is prepared, now if it was not.

    Args:
        name: Its name, or the folder of a prepared one.
        data_dir: tensorflow-datasets folder.
    """
    import tensorflow_datasets as tfds

    if (Path(name) / "dataset_info.json").is_file():
        return tfds.builder_from_directory(name)
    builder = tfds.builder(name, data_dir=data_dir)
    if not Path(builder.data_path).is_dir():
        builder.download_and_prepare()
    return builder


def read_prepared(
    name: str,
    data_dir: str | None,
    test_split: str | None,
    share: float | None = None,
    test_only: bool = False,
) -> tuple[tuple[str, ...], Pictures | PreparedPictures, Pictures | PreparedPictures]:
    """The pictures of a set of tensorflow-datasets.

    Args:
        name: Its name, or the folder of a prepared one.
        data_dir: tensorflow-datasets folder.
        test_split: The held-out part; by default `test`, `validation` or `val`,
            whichever has labels.
        share: Which share to hold out where nothing is (0.2).
        test_only: Whether to leave the training part on disk.

    Returns:
        The classes, and the pictures to train and to test on.

    Raises:
        UserError: If there is no such set, or it has no images with labels.
    """
    with readable(name, data_dir):
        builder = prepared_builder(name, data_dir)
        keys = _keys(name, builder)
        classes = tuple(builder.info.features[keys[1]].names)
        if test_split is not None:
            test = _part(builder, test_split, keys, len(classes), name)
        else:
            test = _test(builder, keys, len(classes), name)
        if test is not None and test_only:
            return classes, PreparedPictures(builder, "train", keys), test
        train = _part(builder, "train", keys, len(classes), name)
        if test is None:
            return classes, *train.split(DEFAULT_SHARE if share is None else share)
    return classes, train, test


def _keys(name: str, builder: Any) -> tuple[str, str]:
    """The names of the features that hold image and label."""
    import numpy as np
    import tensorflow_datasets as tfds

    features = builder.info.features
    found = []
    for kind, usual in (
        (tfds.features.Image, "image"),
        (tfds.features.ClassLabel, "label"),
    ):
        keys = [
            key
            for key, feature in dict(features or {}).items()
            if isinstance(feature, kind)
        ]
        found.append(usual if usual in keys else keys[0] if len(keys) == 1 else None)
    if None in found or np.dtype(features[found[0]].np_dtype) != np.uint8:
        raise UserError(
            "A set of tensorflow-datasets must have an image (of uint8) and a class "
            "label",
            got=f"{name} with the features {', '.join(features or ['none'])}",
            fix="choose another, or make a folder of class folders of it",
        )
    return tuple(found)


def _test(builder: Any, keys: tuple[str, str], classes: int, name: str):
    """The part to test on: not one whose labels are kept secret, all -1."""
    there = [split for split in _TESTS if split in builder.info.splits]
    for split in there:
        part = PreparedPictures(builder, split, keys)
        label = next(iter(part.limited(1).encoded().as_numpy_iterator()))[1]
        if label >= 0:
            return _part(builder, split, keys, classes, name)
    return None


def _part(builder: Any, split: str, keys: tuple[str, str], classes: int, name: str):
    if split not in builder.info.splits:
        raise UserError(
            f"{name} must have the part {split}",
            got=f"the parts {', '.join(builder.info.splits)}",
            fix="choose another set",
        )
    part = PreparedPictures(builder, split, keys)
    if part.encoded_bytes > _READ_BYTES:
        return part
    pictures = part.in_memory()
    labels = pictures.labels
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        found = f"from {labels.min()} to {labels.max()}" if len(labels) else "none"
        raise UserError(
            f"The labels of {name} must be from 0 to {classes - 1}",
            got=f"{found} in its part {split}",
            fix="choose another set, or correct it",
        )
    return pictures
