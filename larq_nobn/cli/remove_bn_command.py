"""`larq-nobn remove-bn`: a network's normalizer-free twin, or batch norm folded."""

from larq_nobn._files import out_path
from larq_nobn.cli import _model_argument
from larq_nobn.cli._data_arguments import add_data_arguments, test_batches

HELP = "take batch norm out of a network: to train without it, or folded for inference"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    _model_argument.add_model_argument(parser)
    parser.add_argument(
        "--out",
        type=out_path,
        required=True,
        metavar="FILE.keras",
        help="the new model",
    )
    parser.add_argument(
        "--mode",
        choices=("free", "none", "fold"),
        default="free",
        help="the normalizer-free twin (default), batch norm merely deleted, or folded "
        "into the layers in front of it",
    )
    parser.add_argument("--alpha", type=float, default=0.2, help="default 0.2")
    add_data_arguments(parser, "what to measure on, by default noise; one of")
    parser.add_argument(
        "--allow-untranslated",
        action="store_true",
        help="leave what cannot be translated as it is",
    )


def run(args) -> None:
    """Translate, list what became of each layer, and save."""
    import warnings

    from larq_nobn._tables import format_table
    from larq_nobn.batch_norm import (
        describe_removal,
        fold_batch_norm,
        remove_batch_norm,
    )
    from larq_nobn.saving import save_model

    model = _model_argument.open_model(args.model, args.unsafe)
    if args.mode == "fold":
        twin = fold_batch_norm(model)
    else:
        how = {"norm": args.mode, "alpha": args.alpha, "images": _images(model, args)}
        changes = describe_removal(model, **how)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the table says it
            twin = remove_batch_norm(
                model, **how, allow_untranslated=args.allow_untranslated
            )
        rows = [(c.layer, c.before, c.after, c.problem or "") for c in changes]
        print(format_table(("layer", "before", "after", "problem"), rows))
    save_model(twin, args.out)
    print(f"{model.name} -> {twin.name}, saved as {args.out}")


def _images(model, args):
    if args.data is None:
        return None
    return next(test_batches(args, model, None, 64))[0]
