"""Tables in Markdown."""

from collections.abc import Sequence

from tabulate import tabulate


def markdown_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    r"""A table of which every cell is shown as it is, also with a | in it.

    >>> print(markdown_table([["|π|", "0.5"]], ["what", "mean"]))
    | what   | mean   |
    |--------|--------|
    | \|π\|  | 0.5    |
    """
    headers, *rows = ([cell.replace("|", r"\|") for cell in row] for row in (headers, *rows))
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)
