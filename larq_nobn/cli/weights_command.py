"""`larq-nobn weights`: what can be loaded by `weights=`."""

HELP = "list the published weights that can be found, and where"


def add_arguments(parser) -> None:
    """Add the command's arguments; there are none."""


def run(args) -> None:
    """Print the table."""
    import sys

    from larq_nobn.weights.registry import survey

    found, problems = survey()
    rows = [["model", "dataset", "metrics", "size", "where"]]
    for published in found:
        metrics = published.card.metrics.items()
        rows.append(
            [
                published.arguments,
                published.dataset,
                ", ".join(f"{name} {value:.2f} %" for name, value in metrics) or "-",
                f"{published.size / 1e6:.2f} MB",
                published.where,
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows if found else []:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    if not found:
        print(
            "No published weights were found. Import a PyTorch checkpoint (larq-nobn "
            "import), train a network (larq-nobn train, then publish), or name folders "
            "or mirrors in LARQ_NOBN_ZOO."
        )
    for problem in problems:
        print(f"larq-nobn: passed over: {problem}", file=sys.stderr)
