"""`larq-nobn weights`: what can be loaded by `weights=`."""

HELP = "list the published weights that can be found, and where"
# Reads cards only, without TensorFlow.
IS_LIGHT = True


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="with multiply-adds and how to check it, as a Markdown table, for the "
        "README",
    )


def run(args) -> None:
    """Print the table."""
    import sys

    import larq_nobn
    from larq_nobn._errors import cleaned
    from larq_nobn._tables import markdown_table
    from larq_nobn.weights.registry import survey

    found, problems = survey()
    if found and args.markdown:
        larq_nobn._import_method()
        from larq_nobn.zoo.table import weights_table

        print(markdown_table(*weights_table(found)))
    elif found:
        print(found)
    if not found:
        print(
            "No published weights were found. Import a PyTorch checkpoint (larq-nobn "
            "import), train a network (larq-nobn train, then publish), or name folders "
            "or mirrors in LARQ_NOBN_ZOO."
        )
    for problem in problems:
        print(f"larq-nobn: passed over: {cleaned(problem)}", file=sys.stderr)
