"""`larq-nobn list`: the table of models."""

HELP = "print the zoo's networks with parameters, MACs and size"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--markdown", action="store_true", help="as a Markdown table, for the README"
    )


def run(args) -> None:
    """Print the table."""
    from larq_nobn.zoo.table import model_table

    header, *rows = model_table()
    if args.markdown:
        lines = [header, ["---"] * len(header), *rows]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
