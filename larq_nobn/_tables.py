"""Tables as text."""

from collections.abc import Iterable, Sequence


def format_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a table with aligned columns."""
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with aligned columns."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(format_row(line, widths) for line in lines)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )
