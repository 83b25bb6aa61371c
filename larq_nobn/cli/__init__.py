"""The command `larq-nobn`.

Each subcommand is a module of this package, `NAME_command`, with `HELP`,
`add_arguments(parser)` and `run(args)`; it imports what it needs in `run`.
"""

import argparse
import importlib
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
    def error(self, message: str):
        _print_error(f"{message}. Fix: see {self.prog} --help.")
        self.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default the process's.

    Returns:
        0, or 2 after a failure that the user can repair, which is one line on stderr.
    """
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
        subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    if args.version:
        from larq_nobn import __version__

        print(__version__)
        return 0
    if not hasattr(args, "run"):
        parser.error(f"a command is missing; one of {', '.join(COMMANDS)}")
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from larq_nobn._errors import UserError

    try:
        args.run(args)
    except UserError as error:
        _print_error(str(error))
        return 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        reason = error.strerror or str(error)
        _print_error(f"{reason}{where}. Fix: check path, permissions and free space.")
        return 2
    except KeyboardInterrupt:
        _print_error("interrupted")
        return 130
    return 0


def _print_error(message: str) -> None:
    print(f"larq-nobn: error: {' '.join(message.split())}", file=sys.stderr)
