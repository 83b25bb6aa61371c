"""`larq-nobn export`: a saved model as a checked TFLite file."""

import itertools

from larq_nobn._files import out_path
from larq_nobn.cli import _model_argument
from larq_nobn.cli._data_arguments import (
    add_data_arguments,
    test_batches,
    training_images,
)

HELP = "convert a model for Larq Compute Engine (or plain TFLite) and check the file"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    _model_argument.add_model_argument(parser, nargs="*")
    parser.add_argument(
        "--out", type=out_path, help="the .tflite file to write; a folder for C"
    )
    parser.add_argument("--header", type=out_path, help="also write it as a C header")
    parser.add_argument(
        "--header-name",
        metavar="NAME",
        help="of the array in --header; by default the file's",
    )
    parser.add_argument(
        "--header-guard",
        metavar="NAME",
        help="macro that guards --header; by default the array's name in capitals",
    )
    parser.add_argument(
        "--target",
        default="arm",
        help="arm (Larq Compute Engine on 64-bit Arm and x86), xcore, tflite (devices "
        "without Larq Compute Engine), or c (C99 for microcontrollers; MODEL may then "
        "be a .tflite file, too); default: %(default)s",
    )
    parser.add_argument(
        "--float-weights",
        default="float32",
        help="how the float layers' kernels are stored: float32 (exact), float16 or "
        "int8; default: %(default)s",
    )
    parser.add_argument(
        "--quantize",
        metavar="TYPE",
        help="int8: with --target tflite, everything in int8, input and output too, by "
        "training images of --data; the accuracy that it costs is measured on 1000 of "
        "its test images, or --accuracy N",
    )
    parser.add_argument(
        "--representative",
        type=int,
        default=256,
        metavar="N",
        help="of how many training images --quantize takes the ranges of all values; "
        "default: %(default)s",
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
        "--name", default="network", help="of the network in C; default: %(default)s"
    )
    parser.add_argument(
        "--mean",
        type=float,
        nargs="+",
        help="means by channel of pixels in [0, 1], for a function of C that takes "
        "pixels; by default those of MODEL's card",
    )
    parser.add_argument("--std", type=float, nargs="+", help="standard deviations")
    parser.add_argument(
        "--force", action="store_true", help="write C into a folder that holds files"
    )
    parser.add_argument("--json", action="store_true", help="print C's sizes as JSON")
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
    _check_options(args)
    if args.check_all:
        _check_all(args)
        return
    if len(args.model) != 1 or args.out is None:
        raise UserError(
            "One MODEL and --out FILE are needed",
            got=f"{len(args.model)} models, --out {args.out}",
            fix="larq-nobn export model.keras --out model.tflite",
        )
    if args.target == "c":
        _export_c(args)
    else:
        _export(args)


def _check_options(args) -> None:
    from larq_nobn._errors import UserError
    from larq_nobn.deploy.conversion import check_quantize

    if args.header is None and (args.header_name or args.header_guard):
        raise UserError(
            "--header-name and --header-guard are of --header",
            got="no --header",
            fix="add --header FILE.h",
        )
    if args.quantize is None:
        return
    if args.check_all:
        raise UserError(
            "--check-all needs exact files", got="--quantize", fix="leave it away"
        )
    check_quantize(args.quantize, args.target, args.float_weights)
    if args.data is None or args.representative < 1:
        raise UserError(
            "--quantize needs training images, whose values it takes the ranges of",
            got="no --data"
            if args.data is None
            else f"--representative {args.representative}",
            fix="add --data cifar10 (or the one that the model was trained on)",
        )
    if args.accuracy is None:
        args.accuracy = 1000


def _export_c(args) -> None:
    import json
    from pathlib import Path

    from larq_nobn._errors import UserError
    from larq_nobn.deploy import convert
    from larq_nobn.deploy.c.export import check_target, read_tflite, write_c

    if args.header or args.accuracy is not None or args.float_weights != "float32":
        raise UserError(
            "--header, --accuracy and --float-weights are of .tflite files",
            got="--target c",
            fix="leave them away",
        )
    # Before the work.
    check_target(args.out, args.name, args.force)
    path, card, real = Path(args.model[0]), None, None
    if path.suffix == ".tflite":
        if args.data is not None:
            raise UserError(
                "--data needs a Keras model", got=path, fix="export the model itself"
            )
        content = read_tflite(path)
    else:
        model = _model_argument.open_model(args.model[0], args.unsafe)
        real = _real_images(args, model)
        content, card = (
            convert(model, allow_float=args.allow_float),
            getattr(model, "card", None),
        )
        settings = model.data_settings if card is None else None
        if settings and args.mean is None and args.std is None:
            args.mean, args.std = settings.mean, settings.std
    report = write_c(
        content,
        args.out,
        name=args.name,
        card=card,
        mean=args.mean,
        std=args.std,
        force=args.force,
        verify=lambda folder: _check_c(args, content, folder, real),
    )
    print(json.dumps(report.as_dict()) if args.json else f"{args.out}:\n{report}")


def _check_c(args, content: bytes, folder, real) -> None:
    import sys

    from larq_nobn.deploy import check_c
    from larq_nobn.deploy.c.compiler import host_compiler
    from larq_nobn.deploy.checking import ensure_explained
    from larq_nobn.deploy.flatbuffer import Flatbuffer

    if not args.check or host_compiler() is None:
        return
    shape = Flatbuffer(content).inputs[0].shape[1:]
    for what, images in _images(args, shape, real):
        result = check_c(content, folder, args.name, images, progress=True)
        print(f"{what}: {result}", file=sys.stderr if args.json else None)
        ensure_explained(result)


def _export(args) -> None:
    from larq_nobn._files import write_atomically
    from larq_nobn.deploy import accuracy, c_header, convert, report

    model = _model_argument.open_model(args.model[0], args.unsafe)
    real = _real_images(args, model)
    representative = None
    if args.quantize is not None:
        representative = training_images(args, model, args.representative)
        print(f"int8 by {len(representative)} {args.data} training images")
    content = convert(
        model,
        args.target,
        float_weights=args.float_weights,
        allow_float=args.allow_float,
        quantize=args.quantize,
        representative=representative,
    )
    if args.check:
        _check(args, model, content, real)
    if args.accuracy is not None:
        batches = test_batches(args, model, args.accuracy or None, 64)
        found = accuracy(model, content, batches, progress=True)
        print(
            f"top-1 on {found.images} {args.data} test images: model "
            f"{found.model:.2f} %, file {found.file:.2f} %"
            f"{'' if args.quantize is None else f' ({found.file - found.model:+.2f})'}"
        )
    header = None
    if args.header is not None:
        header = c_header(content, _header_name(args), args.header_guard)
    write_atomically(args.out, content)
    print(f"{args.out}:\n{report(content, model).summary()}")
    if header is not None:
        write_atomically(args.header, header.encode())
        print(f"{args.header}: the same as a C array")


def _header_name(args) -> str:
    if args.header_name is not None:
        return args.header_name
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in args.out.stem)
    return f"model_{name}" if name[0].isdigit() else name


def _check(args, model, content: bytes, real) -> None:
    from larq_nobn.deploy.checking import check, ensure_explained

    for what, images in _inputs(args, model, real):
        if args.quantize is not None and images is not real:
            # Noise lies outside of the ranges.
            continue
        result = check(model, content, images, progress=True)
        lines = str(result).splitlines()
        print(f"{what}: {lines[0] if args.quantize is not None else result}")
        # What is rounded deviates by design; --accuracy measures its cost.
        if args.float_weights == "float32" and args.quantize is None:
            ensure_explained(result)


def _inputs(args, model, real):
    """Yield what to check on: images, or random numbers for each of several inputs."""
    import numpy as np

    if len(model.inputs) == 1:
        yield from _images(args, model.inputs[0].shape[1:], real)
        return
    random = np.random.default_rng(0)
    sizes = [(args.check, *x.shape[1:]) for x in model.inputs]
    yield "random inputs", [random.standard_normal(n, np.float32) for n in sizes]


def _images(args, shape, real):
    """Yield the images to check on: random ones and, if there are any, real ones."""
    import numpy as np

    random = np.random.default_rng(0)
    size = (args.check, *shape)
    yield "random images", random.standard_normal(size, np.float32)
    if real is not None:
        yield f"{args.data} test images", real


def _real_images(args, model=None):
    """Return test images to check on, `None` without a data set."""
    import numpy as np

    if args.data is None or not args.check:
        return None
    batches = test_batches(args, model, args.check, 64)
    return np.concatenate([images for images, _ in batches])


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
        return np.concatenate(
            [images for _, images in _images(args, model.inputs[0].shape[1:], real)]
        )

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
