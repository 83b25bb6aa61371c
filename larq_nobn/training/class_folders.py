"""Any folder of class folders: with `train` and `val`, or one to be divided."""

import os
from pathlib import Path

import numpy as np

from larq_nobn._errors import UserError
from larq_nobn.training.pictures import Pictures

# The held-out part's folder, the first that is there.
_TESTS = ("val", "validation", "valid", "test")
_KINDS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
# Tiny-ImageNet's own files.
_ANNOTATIONS, _BOXES = "val_annotations.txt", "_boxes.txt"
_LAYOUT = "train/CLASS/ and val/CLASS/, or CLASS/, with pictures in each"
DEFAULT_SHARE = 0.2


def has_parts(folder: Path) -> bool:
    """Whether a folder has a part for training."""
    return (folder / "train").is_dir()


def read_folder(
    folder: Path, share: float | None = None
) -> tuple[tuple[str, ...], Pictures, Pictures]:
    """List the pictures of a folder; labels are the alphabetical order of the classes.

    Args:
        folder: With `train/CLASS` and `val/CLASS` (or `validation`, `valid`, `test`),
            with `train/CLASS` alone, or with `CLASS` alone. The class folders may have
            folders in them. Tiny-ImageNet-200's `val`, with its list of classes, is
            read too.
        share: Which share of each class to hold out where nothing is (0.2).

    Returns:
        The classes, and the pictures to train and to test on.

    Raises:
        UserError: If the folder is another.
    """
    if not folder.is_dir():
        raise UserError(
            f"A path of images must be a folder with {_LAYOUT}",
            got=f"{folder}, which is {'no folder' if folder.exists() else 'not there'}",
            fix="check the path",
        )
    train = folder / "train" if has_parts(folder) else folder
    classes = _class_names(train)
    pictures = _pictures(train, classes)
    if train == folder:
        test = None
    else:
        test = next((folder / t for t in _TESTS if (folder / t).is_dir()), None)
    if test is None:
        counts = np.bincount(pictures.labels)
        if counts.min() < 2:
            raise UserError(
                "A class must hold two pictures or more, one of them to test on",
                got=train / classes[counts.argmin()],
                fix="put more pictures into it",
            )
        return classes, *pictures.split(DEFAULT_SHARE if share is None else share)
    if (test / _ANNOTATIONS).is_file():
        return classes, pictures, _annotated(test, classes)
    others = _class_names(test)
    if others != classes:
        only = sorted(set(classes) ^ set(others))
        raise UserError(
            f"{train} and {test} must have the same classes",
            got=f"only one of them has {', '.join(only[:5])}"
            f"{' and others' if len(only) > 5 else ''}",
            fix="complete the data, or remove the class from both",
        )
    return classes, pictures, _pictures(test, classes)


def _class_names(folder: Path) -> tuple[str, ...]:
    classes = sorted(
        p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")
    )
    if len(classes) < 2:
        raise UserError(
            f"A path of images must be a folder with {_LAYOUT}, of two classes or more",
            got=f"{folder} with {len(classes) or 'no'} class folders",
            fix="sort the pictures into class folders",
        )
    return tuple(classes)


def _pictures(folder: Path, classes: tuple[str, ...]) -> Pictures:
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(_files(folder / name))
        if not found:
            raise UserError(
                "Every class folder must hold pictures",
                got=f"{folder / name}, which holds none",
                fix="remove it, or put pictures into it",
            )
        paths += found
        labels += [label] * len(found)
    return Pictures(np.array(paths, object), np.array(labels, np.int64), True)


def _files(folder: Path) -> list[bytes]:
    found = []
    for where, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") or name.endswith(_BOXES) or name == "Thumbs.db":
                continue
            path = f"{where}{os.sep}{name}"
            if not name.lower().endswith(_KINDS):
                raise UserError(
                    f"A class folder must hold pictures, {', '.join(_KINDS)}",
                    got=path,
                    fix="convert it, or move it elsewhere",
                )
            found.append(os.fsencode(path))
    return found


def _annotated(folder: Path, classes: tuple[str, ...]) -> Pictures:
    """Tiny-ImageNet's `val`: all pictures in one folder, and a list."""
    numbers = {name: label for label, name in enumerate(classes)}
    pairs = []
    for line in (folder / _ANNOTATIONS).read_text().splitlines():
        name, class_, *_ = [*line.split("\t"), ""]
        path = folder / "images" / name
        if class_ not in numbers or not path.is_file():
            raise UserError(
                f"Each line of {folder / _ANNOTATIONS} must name a picture and a class",
                got=repr(line),
                fix="get the data again",
            )
        pairs.append((os.fsencode(path), numbers[class_]))
    paths, labels = zip(*sorted(pairs), strict=True) if pairs else ((), ())
    return Pictures(np.array(paths, object), np.array(labels, np.int64), True)
