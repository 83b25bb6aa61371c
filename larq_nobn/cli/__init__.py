"""The command `larq-nobn`.

Each subcommand is a module of this package, `NAME_command`, with `HELP`,
`add_arguments(parser)` and `run(args)`; it imports what it needs in `run`. TensorFlow,
and with it the method, is imported before, except for a command with `IS_LIGHT`.
"""

import argparse
import contextlib
import importlib
import math
import os
import sys
from collections.abc import Sequence

COMMANDS = (
    "benchmark",
    "demo",
    "evaluate",
    "export",
    "import",
    "inspect",
    "list",
    "offload",
    "probe",
    "publish",
    "remove-bn",
    "train",
    "tune",
    "weights",
)


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register("type", int, _integer)
        self.register("type", float, _number)

    def error(self, message: str):
        _print_error(f"{message}. Fix: see {self.prog} --help.")
        self.exit(2)


def _integer(text: str) -> int:
    """A number that fits into what counts with it."""
    if abs(value := int(text)) >= 1 << 32:
        raise ValueError(text)
    return value


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default the process's.

    Returns:
        0, or 2 after a failure that the user can repair, which is one line on stderr;
        130 after an interruption, 141 when nobody reads the output any more.
    """
    try:
        try:
            args = _parse(sys.argv[1:] if argv is None else argv)
            return 0 if args is None else _run(args)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 141
    except OSError as error:
        _drop_output()
        return _failed(error)


def _parse(argv: Sequence[str]) -> argparse.Namespace | None:
    """The arguments; `None` if there is nothing left to do."""
    parser = _Parser(
        prog="larq-nobn",
        description="Binary neural networks without batch normalization, for Keras.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        module = importlib.import_module(
            f"larq_nobn.cli.{name.replace('-', '_')}_command"
        )
        subparser = subparsers.add_parser(
            name, help=module.HELP, description=module.HELP
        )
        module.add_arguments(subparser)
        light = getattr(module, "IS_LIGHT", False)
        subparser.set_defaults(run=module.run, is_light=light)
    if any("\0" in argument for argument in argv):
        parser.error("arguments cannot contain NUL")
    args = parser.parse_args(argv)
    if args.version:
        from larq_nobn import __version__

        print(__version__)
        return None
    if not hasattr(args, "run"):
        parser.error(f"a command is missing; one of {', '.join(COMMANDS)}")
    return args


def _run(args: argparse.Namespace) -> int:
    import larq_nobn
    from larq_nobn._errors import UserError

    try:
        if not args.is_light:
            larq_nobn._import_method()
        args.run(args)
    except UserError as error:
        _print_error(str(error))
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        return _failed(error)
    except KeyboardInterrupt:
        goes_on = "; go on by the same command with --resume"
        _print_error(f"interrupted{goes_on if hasattr(args, 'resume') else ''}")
        return 130
    return 0


def _failed(error: OSError) -> int:
    where = f" ({error.filename})" if error.filename else ""
    reason = error.strerror or str(error)
    _print_error(f"{reason}{where}. Fix: check path, permissions and free space.")
    return 2


def _drop_output() -> None:
    """Let Python's own last flush succeed, which would print a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(message: str) -> None:
    from larq_nobn._errors import cleaned

    message = " ".join(cleaned(message, 5000).split())
    with contextlib.suppress(OSError):
        print(f"larq-nobn: error: {message}", file=sys.stderr)
