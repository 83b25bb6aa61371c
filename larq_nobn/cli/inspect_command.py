"""`larq-nobn inspect`: what is in an exported file."""

from pathlib import Path

from larq_nobn._files import out_path
from larq_nobn.cli import _model_argument

_MODELS = (".keras", ".h5", ".hdf5")
HELP = "list operators, multiply-accumulates and bytes of an exported file or a model"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    _model_argument.add_model_argument(
        parser,
        "file",
        help=f"a .tflite file, or, to be converted first, {_model_argument.HELP}",
    )
    parser.add_argument("--png", type=out_path, help="also draw it")
    parser.add_argument(
        "--blocks",
        action="store_true",
        help="list the operators of each block, for a model before and after folding",
    )
    parser.add_argument(
        "--target", default="arm", help="for a model: arm, xcore or tflite"
    )
    parser.add_argument(
        "--allow-float",
        action="store_true",
        help="for a model: let layers that should be binary stay float",
    )


def run(args) -> None:
    """Print the table, and draw it."""
    from larq_nobn.deploy import convert, plot, report
    from larq_nobn.deploy.inspection import (
        blocks_before,
        format_blocks,
        multiplications_before,
    )

    path = Path(args.file)
    if path.is_dir() or not path.is_file() or path.suffix in _MODELS:
        model = _model_argument.open_model(args.file, args.unsafe)
        _check(model, args)
        content = convert(model, args.target, allow_float=args.allow_float)
        found = report(content, model)
        before = blocks_before(model)
    else:
        model, found = None, report(path.read_bytes())
        before = {}
    if args.blocks:
        print(format_blocks(before, found.blocks()))
        print()
        print(found.summary())
    else:
        print(found)
    if model is not None:
        count = multiplications_before(model) / 1e6
        print(f"before folding {count:.2f} M other float multiplications per image")
    if args.png is not None:
        plot(found, args.png, title=path.stem)
        print(f"{args.png}: the same as a picture")


def _check(model, args) -> None:
    """Show all that cannot be exported, where `convert` would stop at the first."""
    from larq_nobn._errors import UserError
    from larq_nobn.deploy import can_convert

    failures = can_convert(model, args.target, allow_float=args.allow_float)
    if not failures:
        return
    for layer, reason in failures:
        print(f"{layer}: {reason}")
    raise UserError(
        "Every layer must be one that can be exported",
        got=", ".join(layer for layer, _ in failures),
        fix="see the reasons above",
    )
