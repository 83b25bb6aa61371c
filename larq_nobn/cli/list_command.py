"""`larq-nobn list`: the table of models."""

HELP = "print the zoo's networks with parameters, MACs and size"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--markdown", action="store_true", help="as a Markdown table, for the README"
    )


def run(args) -> None:
    """Print the table."""
    from larq_nobn._tables import format_table, markdown_table
    from larq_nobn.zoo.table import model_table

    header, *rows = model_table()
    print((markdown_table if args.markdown else format_table)(header, rows))
