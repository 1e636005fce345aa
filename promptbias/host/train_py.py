"""The line `import promptbias.plugin` in a checkout's train.py: where it belongs, and how it goes in and out."""

import ast
import re
import warnings

from promptbias.utils.errors import UserError

MODULE = "promptbias.plugin"
LINE = f"import {MODULE}  # put here by `promptbias attach`; `promptbias attach --detach .` takes it out".encode()
WHOLE_LINE = re.compile(rb"(?:\A|(?<=\A\xef\xbb\xbf)|(?<=[\r\n]))" + re.escape(LINE) + rb"(?:\r\n|\r|\n)")
ENDING = re.compile(rb"\r\n|\r|\n")
BOM = b"\xef\xbb\xbf"
BY_HAND = f"put `import {MODULE}` at its top by hand"


def has_import(source: bytes) -> bool:
    """Whether a script imports the plug-in, by our line or by its author's.

    Raises:
        UserError: it is not Python.
    """
    imports = [node for node in ast.walk(_parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return any(MODULE in names_of(node) for node in imports)


def names_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Absolute names of the modules that an import may load."""
    prefix = "" if isinstance(node, ast.Import) else f"{node.module}."
    return [prefix + alias.name for alias in node.names]


def insert(source: bytes) -> bytes:
    """A script with our line before its first statement; its docstring and `from __future__` stay first.

    Raises:
        UserError: it is not Python, or has no line of its own where the import could stand.
    """
    before = _parse(source)
    first = next((i for i, node in enumerate(before.body) if not _must_be_first(i, node)), None)
    if first is None:
        raise UserError(f"train.py has no statement to put an import before; {BY_HAND}")
    node = before.body[first]
    number = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    endings = list(ENDING.finditer(source))
    start = endings[number - 2].end() if number > 1 else len(BOM) if source.startswith(BOM) else 0
    ending = endings[0].group() if endings else b"\n"
    result = source[:start] + LINE + ending + source[start:]
    if remove(result) != source or not _differ_by_the_import(before, result, first):
        raise UserError(f"train.py has no line of its own where the import could stand; {BY_HAND}")
    return result


def remove(source: bytes) -> bytes:
    """A script without our line; the inverse of `insert`."""
    return WHOLE_LINE.sub(b"", source)


def _must_be_first(i: int, node: ast.stmt) -> bool:
    docstring = i == 0 and isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)
    return docstring or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


def _differ_by_the_import(before: ast.Module, after: bytes, first: int) -> bool:
    """Whether `after` is the script `before` with our import as its statement number `first`, and nothing else."""
    try:
        body = _parse(after).body
    except UserError:
        return False
    added = body.pop(first)
    return (
        isinstance(added, ast.Import)
        and names_of(added) == [MODULE]
        and [*map(ast.dump, body)] == [*map(ast.dump, before.body)]
    )


def _parse(source: bytes) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"train.py is not Python that can be read ({str(error).splitlines()[0]})") from error
