"""The arguments --data and --data-dir of commands: one way to name a data set."""

from larq_nobn.datasets import DATASETS


def add_data_arguments(parser, purpose: str, required: bool = False) -> None:
    """Add both.

    Args:
        parser: The command's.
        purpose: What the data set is for, in words.
        required: Whether there must be one.
    """
    add_data_argument(parser, purpose, required)
    add_data_dir_argument(parser)


def add_data_argument(
    parser, purpose: str, required: bool = False, known: bool = False
) -> None:
    """Add `--data`; `--dataset` is its former name.

    Args:
        parser: The command's.
        purpose: What the data set is for, in words.
        required: Whether there must be one.
        known: Whether it must be one of the table's.
    """
    names = f"{purpose}: {', '.join(DATASETS)}"
    parser.add_argument(
        "--data",
        "--dataset",
        dest="data",
        metavar="NAME",
        required=required,
        help=names
        if known
        else f"{names}; tfds:NAME of tensorflow-datasets; or the path, with a / in it, "
        "of a folder of class folders",
    )


def add_data_dir_argument(parser) -> None:
    """Add `--data-dir`."""
    parser.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="tensorflow-datasets folder; of imagenet and its parts also one with "
        "train/CLASS and val/CLASS",
    )


def test_batches(args, model, limit: int | None, batch_size: int):
    """Test images of `--data` as a model takes them, and labels, in batches.

    Args:
        args: The command's arguments.
        model: The model; `None` for the data set's usual form.
        limit: At most so many images.
        batch_size: Images per batch.

    Raises:
        UserError: If the model takes other images, or the data are missing.
    """
    from larq_nobn.training.data import load_images
    from larq_nobn.training.evaluation import open_for
    from larq_nobn.training.streamed import broken_pictures_named

    if model is None:
        images = load_images(args.data, args.data_dir, limit, test_only=True)
    else:
        images = open_for(model, args.data, args.data_dir, limit)
    with broken_pictures_named(images):
        yield from images.test_batches(batch_size).as_numpy_iterator()


def training_images(args, model, count: int):
    """Training images of `--data` as a model takes them, as the training varies them.

    Args:
        args: The command's arguments.
        model: The model.
        count: How many; fewer, if the data set has no more.

    Returns:
        An array of shape `(count, height, width, channels)`.

    Raises:
        UserError: As in `test_batches`.
    """
    import numpy as np

    from larq_nobn.training.evaluation import open_for
    from larq_nobn.training.streamed import broken_pictures_named

    images = open_for(model, args.data, args.data_dir, test_only=False)
    with broken_pictures_named(images):
        size = min(count, images.train_size, 32)
        batches = images.train_batches(size, seed=0, epoch=0)
        parts = [x for x, _ in batches.take(-(-count // size)).as_numpy_iterator()]
    return np.concatenate(parts)[:count]
