"""`larq-nobn probe`: the signal-propagation plot."""

import itertools
from pathlib import Path

from larq_nobn._files import out_path
from larq_nobn.cli import _model_argument
from larq_nobn.cli._data_arguments import add_data_arguments, test_batches

HELP = "measure mean and variance of activations per block, and draw them"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    _model_argument.add_model_argument(
        parser,
        nargs="+",
        help=f"{_model_argument.HELP}; or the name of a network of the zoo, for its "
        "norms with random weights",
    )
    add_data_arguments(parser, "by default noise; one of")
    parser.add_argument("--out", type=out_path, default=Path("propagation.png"))


def run(args) -> None:
    """Measure, print and draw."""
    from larq_nobn._tables import format_table
    from larq_nobn.probes import draw_signal_propagation, signal_propagation

    measured = {}
    for title, model, trained in _models(args.model, args.unsafe):
        images = _images(model, args)
        # Untrained batch norms have only the batch's statistics.
        measured[title] = signal_propagation(model, images, training=not trained)
    rows = max(measured.values(), key=len)
    columns = itertools.zip_longest(
        [row["layer"] for row in rows],
        *([f"{row['variance']:.4g}" for row in found] for found in measured.values()),
        fillvalue="",
    )
    print(format_table(["block", *measured], columns))
    draw_signal_propagation(measured, args.out)
    print(f"\nchannel variance per block; drawn in {args.out}")


def _models(names, unsafe):
    from larq_nobn import zoo

    for name in names:
        if name not in zoo.list_models():
            yield Path(name).name, _model_argument.open_model(name, unsafe), True
            continue
        for norm in zoo.FAMILIES[name].norms:
            model = zoo.create_model(name, norm=norm, stem="cifar")
            yield f"{name}, {norm}", model, False


def _images(model, args):
    import numpy as np

    from larq_nobn._errors import UserError

    if args.data is not None:
        return next(test_batches(args, model, None, 64))[0]
    if len(model.inputs) != 1:
        raise UserError(
            "A probe needs a model with one input",
            got=f"{model.name} with {len(model.inputs)}",
            fix="probe another model",
        )
    shape = (64, *(size or 32 for size in model.input_shape[1:]))
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
