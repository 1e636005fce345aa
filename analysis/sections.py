"""Sections of the report: what stands on the page of each figure, kept in files so that a killed report resumes."""

import argparse
import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
from markupsafe import Markup
from PIL import Image

from promptbias import __version__
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write
from promptbias.utils.seals import JSON_KEY, read_json, seal_json

from . import figures
from .findings import Finding

KEPT = ".sections"  # folder of the finished sections, in that of the report
FORMAT = 2  # of these files
PICTURE_DPI = 144  # of the pictures inside of SVGs
UNQUOTED = ' "<>=/:;,?!@$*()[]{}|^`+~-_.'  # in an address: all but what ends it or means something else in it
Table = list[list[str]]  # the first row is the heading


class Section(msgspec.Struct):
    """One figure on the page.

    Attributes:
        name, help: of its command.
        how_to_read: as in `figures.Result`.
        tables: of its numbers.
        drawings: stem -> SVG.
        of_paper: stem -> which figure of the paper it is, or "".
        samples: how many images it is made from, if not all.
        note: something to say below it, or "".
        files: names of its files in the folder of the report.
        left_out: why it could not be made, or "".
        findings: of the paper, on the tuned run.
    """

    name: str
    help: str
    how_to_read: str = ""
    tables: list[Table] = []
    drawings: dict[str, str] = {}
    of_paper: dict[str, str] = {}
    samples: str = ""
    note: str = ""
    files: list[str] = []
    left_out: str = ""
    findings: list[Finding] = []


class Stored(msgspec.Struct):
    """A finished section in a file."""

    made_from: str
    section: Section


def number_tables(headlines: Iterable[tuple[str, float]], labels: Sequence[str]) -> list[Table]:
    """Numbers as tables: one with rows for models or variants and columns for quantities, and one of all others.

    Args:
        headlines: (what, value); `row_and_quantity` takes `what` apart.
        labels: of the models.
    """
    found: dict[str, dict[str, str]] = {}
    others: Table = []
    for what, value in headlines:
        row, quantity = row_and_quantity(what, labels)
        text = figures.format_number(value)
        if row:
            found.setdefault(row, {})[quantity] = text
        else:
            others.append([quantity, text])
    quantities = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = [[row, *(values.get(name, "") for name in quantities)] for row, values in found.items()]
    of_models = all(row.startswith(tuple(labels)) for row in found)
    tables = [[["model" if of_models else "what", *quantities], *rows]] if rows else []
    return tables + ([[["what", "value"], *others]] if others else [])


def row_and_quantity(what: str, labels: Sequence[str]) -> tuple[str, str]:
    """A number's name as a row and a column of a table; the row is "" where it has none.

    >>> row_and_quantity("share of SOS, CLIP: std", ["CLIP"]), row_and_quantity("area, CLIP, cut", ["CLIP"])
    (('CLIP', 'share of SOS: std'), ('CLIP, cut', 'area'))
    >>> row_and_quantity("CLIP, α = 0: margin", ["CLIP"]), row_and_quantity("none, vision: accuracy", ["CLIP"])
    (('CLIP, α = 0', 'margin'), ('none, vision', 'accuracy'))
    """
    for label in sorted(labels, key=len, reverse=True):
        match = re.fullmatch(rf"(?:(.*), )?{re.escape(label)}(?:, ([^:]*))?(?:: (.*))?", what)
        if match:
            before, after, tail = (group or "" for group in match.groups())
            if not before and not tail:
                return label, after
            return f"{label}, {after}" if after else label, ": ".join(filter(None, (before, tail)))
    variant, _, quantity = what.rpartition(": ")
    return variant, quantity


@figures.theme()
def svg(figure: Any) -> str:
    """A figure as small SVG: its text is text, its pictures are JPEG. The same figure is the same SVG."""
    buffer = io.StringIO()
    with figures.matplotlib.rc_context({"svg.hashsalt": "promptbias", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", dpi=PICTURE_DPI, metadata={"Date": None})
    text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"(?<=data:image/)png;base64,([^\"]+)", lambda found: smaller(found[1]), text)
    return re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text)  # 1/100 of a point


def smaller(png: str) -> str:
    """A picture as JPEG where it hides all that is behind it, else as PNG, as it was; both in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        return "png;base64," + png
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=90)
    return "jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def address(svg: str) -> Markup:
    """SVG as an address that holds it, for an attribute in single quotes: a third smaller than in base64."""
    return Markup("data:image/svg+xml," + quote(re.sub(r"\s*\n\s*", " ", svg), safe=UNQUOTED))


def made_from(name: str, args: argparse.Namespace, samples: int) -> str:
    """A checksum of what a section depends on: the version, the options, and the files of the runs."""
    ignored = {"output", "only", "skip", "also", "explore"}
    options = {key: value for key, value in vars(args).items() if key not in ignored and not callable(value)}
    files = []
    for run in (args.model_dir, *args.compare):
        for folder, _, names in sorted(os.walk(run)):
            for path in sorted(os.path.join(folder, name) for name in names):
                info = os.stat(path)
                files.append([path, info.st_size, info.st_mtime_ns])
    text = json.dumps([__version__, FORMAT, name, samples, options, files], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def keep(section: Section, folder: str, checksum: str) -> None:
    """Write a finished section, for `kept`."""
    content = msgspec.to_builtins(Stored(checksum, section))
    with atomic_write(os.path.join(folder, KEPT, f"{section.name}.json")) as file:
        json.dump(seal_json(content), file)


def kept(name: str, folder: str, checksum: str) -> Section | None:
    """The section of an earlier report from the same runs, options and version, or None, also if damaged."""
    try:
        content, stored = read_json(os.path.join(folder, KEPT, f"{name}.json"), Stored)
    except (OSError, UserError):
        return None
    complete = all(os.path.exists(os.path.join(folder, file)) for file in stored.section.files)
    same = JSON_KEY in content and stored.made_from == checksum
    return stored.section if same and complete else None
