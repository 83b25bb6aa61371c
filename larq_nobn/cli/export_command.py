"""`larq-nobn export`: a saved model as a checked TFLite file."""

import itertools

from larq_nobn._files import out_path
from larq_nobn.cli import _model_argument
from larq_nobn.cli._data_arguments import add_data_arguments, test_batches

HELP = "convert a model for Larq Compute Engine (or plain TFLite) and check the file"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    _model_argument.add_model_argument(parser, nargs="*")
    parser.add_argument("--out", type=out_path, help="the .tflite file to write")
    parser.add_argument("--header", type=out_path, help="also write it as a C header")
    parser.add_argument(
        "--target",
        default="arm",
        help="arm (Larq Compute Engine on 64-bit Arm and x86), xcore, or tflite "
        "(devices without Larq Compute Engine); default: %(default)s",
    )
    parser.add_argument(
        "--float-weights",
        default="float32",
        help="how the float layers' kernels are stored: float32 (exact), float16 or "
        "int8; default: %(default)s",
    )
    parser.add_argument(
        "--allow-float",
        action="store_true",
        help="let layers that should be binary stay float, instead of failing",
    )
    parser.add_argument(
        "--check",
        type=int,
        default=16,
        metavar="N",
        help="compare file and model on N random images, and on N test images of "
        "--data; 0 for none; default: %(default)s",
    )
    add_data_arguments(parser, "what to check on besides noise; one of")
    parser.add_argument(
        "--accuracy",
        type=int,
        metavar="N",
        help="measure the top-1 accuracy of model and file on N test images of "
        "--data (0: on all of them)",
    )
    parser.add_argument(
        "--check-all",
        action="store_true",
        help="instead of exporting, convert and check every network of the zoo with "
        "random weights, and each MODEL; prints a table",
    )
    parser.add_argument(
        "--stem", default="cifar", help="of --check-all's networks: cifar or imagenet"
    )
    parser.add_argument(
        "--width", type=int, help="of --check-all's networks; by default the published"
    )


def run(args) -> None:
    """Export, or check everything."""
    from larq_nobn._errors import UserError

    if args.check < 0 or (args.accuracy or 0) < 0:
        raise UserError(
            "Numbers of images must not be negative",
            got=f"--check {args.check}, --accuracy {args.accuracy}",
            fix="0 or more",
        )
    if args.accuracy is not None and args.data is None:
        raise UserError(
            "--accuracy needs test images",
            got="no --data",
            fix="add --data cifar10 (or the one that the model was trained on)",
        )
    if args.check_all:
        _check_all(args)
        return
    if len(args.model) != 1 or args.out is None:
        raise UserError(
            "One MODEL and --out FILE are needed",
            got=f"{len(args.model)} models, --out {args.out}",
            fix="larq-nobn export model.keras --out model.tflite",
        )
    _export(args)


def _export(args) -> None:
    from larq_nobn._files import write_atomically
    from larq_nobn.deploy import accuracy, c_header, convert, report
    from larq_nobn.training.evaluation import check_input

    model = _model_argument.open_model(args.model[0], args.unsafe)
    content = convert(
        model,
        args.target,
        float_weights=args.float_weights,
        allow_float=args.allow_float,
    )
    if args.data is not None:
        check_input(model, args.data)
    if args.check:
        _check(args, model, content)
    if args.accuracy is not None:
        batches = test_batches(args, args.accuracy or None, 64)
        found = accuracy(model, content, batches, progress=True)
        print(
            f"top-1 on {found.images} {args.data} test images: model "
            f"{found.model:.2f} %, file {found.file:.2f} %"
        )
    write_atomically(args.out, content)
    print(f"{args.out}:\n{report(content).summary()}")
    if args.header is not None:
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in args.out.stem)
        header = c_header(content, f"model_{name}" if name[0].isdigit() else name)
        write_atomically(args.header, header.encode())
        print(f"{args.header}: the same as a C array")


def _check(args, model, content: bytes) -> None:
    from larq_nobn.deploy.checking import check, ensure_explained

    for what, images in _images(args, model, _real_images(args)):
        result = check(model, content, images, progress=True)
        print(f"{what}: {result}")
        # Rounded weights deviate by design; --accuracy measures their cost.
        if args.float_weights == "float32":
            ensure_explained(result)


def _images(args, model, real):
    """Yield the images to check on: random ones and, if there are any, real ones."""
    import numpy as np

    random = np.random.default_rng(0)
    shape = (args.check, *model.inputs[0].shape[1:])
    yield "random images", random.standard_normal(shape, np.float32)
    if real is not None:
        yield f"{args.data} test images", real


def _real_images(args):
    """Return test images to check on, `None` without a data set."""
    import numpy as np

    if args.data is None:
        return None
    return np.concatenate([images for images, _ in test_batches(args, args.check, 64)])


def _check_all(args) -> None:
    import numpy as np

    from larq_nobn._errors import UserError
    from larq_nobn._tables import format_row
    from larq_nobn.deploy import check_all, zoo_networks
    from larq_nobn.deploy.survey import HEADER

    if not args.check:
        raise UserError("--check-all needs images", got="--check 0", fix="leave it")
    real = _real_images(args)

    def images_for(model):
        return np.concatenate([images for _, images in _images(args, model, real)])

    saved = (
        (path, _model_argument.open_model(path, args.unsafe)) for path in args.model
    )
    models = itertools.chain(zoo_networks(args.stem, args.width), saved)
    widths = [max(len(title), 10) for title in HEADER]
    widths[0] = max([18, *map(len, args.model)])
    # Print each row at once: the whole takes minutes.
    print(format_row(HEADER, widths), flush=True)
    for finding in check_all(models, images_for, args.target):
        print(format_row(finding.row, widths), flush=True)
