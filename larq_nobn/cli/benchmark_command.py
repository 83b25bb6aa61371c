"""`larq-nobn benchmark`: the exported model beside its alternatives."""

from larq_nobn.cli import _model_argument

HELP = "measure latency and memory of a model after export, beside its alternatives"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    _model_argument.add_model_argument(parser)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each")
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        help="some of lce, lce-indirect, keras, tflite, bn-twin and quicknet; all by "
        "default",
    )


def run(args) -> None:
    """Print the table."""
    from larq_nobn.deploy import CONTENDERS, benchmark

    model = _model_argument.open_model(args.model, args.unsafe)
    contenders = args.contenders or CONTENDERS
    print(benchmark(model, threads=args.threads, contenders=contenders, runs=args.runs))
