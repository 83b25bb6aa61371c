"""`larq-nobn offload`: train a recipe on an accelerator without TensorFlow."""

from larq_nobn.cli.train_command import add_recipe_arguments, read_recipe

HELP = "export a training for an accelerator without TensorFlow, or bring it back"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add_recipe_arguments(parser)
    parser.add_argument(
        "--part-mb",
        type=float,
        default=50.0,
        metavar="MB",
        help="size of each file of data and weights, at most (50)",
    )
    parser.add_argument(
        "--back",
        metavar="OUT",
        help="folder that run.py wrote: test what it trained and finish the run",
    )
    parser.add_argument(
        "--unfinished",
        action="store_true",
        help="with --back: take a training that was stopped before its end",
    )


def run(args) -> None:
    """Export, or bring back, and say what comes then."""
    from larq_nobn.training.offload import offload

    message = offload(
        read_recipe(args),
        args.out,
        args.data_dir,
        part_mb=args.part_mb,
        back=args.back,
        unfinished=args.unfinished,
    )
    print(message)
