"""Split files and few-shot caches: JSON, checked against a schema and against its own checksum where it is read."""

import hashlib
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from promptbias.utils.errors import UserError
from promptbias.utils.files import regular_file

from .splits import Item

# Path of the image, with forward slashes; class index; class name.
Row = tuple[Annotated[str, msgspec.Meta(min_length=1)], Annotated[int, msgspec.Meta(ge=0, lt=2**31)], str]


class SplitFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A split: CoOp's, or one that was drawn here."""

    drawn_by: str = ""  # "promptbias", if it was drawn here and is not CoOp's
    train: list[Row]
    val: list[Row]
    test: list[Row]
    sha256: str = ""  # of all of the above


class FewShotFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A few-shot draw."""

    drawn_from: str  # sha256 of the training and validation images of the split
    train: list[Row]
    val: list[Row]
    sha256: str = ""  # of all of the above


File = TypeVar("File", SplitFile, FewShotFile)


class NotSuchAFile(ValueError):
    """A file that is not JSON, or does not have the keys and rows that it should have."""


def content_of(file: SplitFile | FewShotFile) -> dict[str, Any]:
    """What is written, with its checksum."""
    content = msgspec.structs.asdict(file)
    return {**content, "sha256": _digest(content)}


def read(path: str, kind: type[File]) -> File:
    """Read a file.

    A file without a checksum, written by an earlier version, is used, and that is said; CoOp's have none either.

    Raises:
        NotSuchAFile: the message says where it departs from the schema.
        OSError: it cannot be opened.
        UserError: it is no regular file, or has other rows than when it was written.
    """
    regular_file(path)
    with open(path, "rb") as opened:
        try:
            file = msgspec.json.decode(opened.read(), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotSuchAFile(textwrap.shorten(str(error), 200)) from error
    if file.sha256 and file.sha256 != _digest(msgspec.structs.asdict(file)):
        raise UserError(
            f"{path} does not hold what was written to it (its checksum differs): delete it to have it drawn again, "
            'or delete only its "sha256" to use it as it is now'
        )
    if not file.sha256 and (isinstance(file, FewShotFile) or file.drawn_by):
        print(f"{path} has no checksum, and is used as it is")
    return file


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 of a file's content without the checksum itself; the layout of the JSON does not matter."""
    rest = {key: value for key, value in sorted(content.items()) if key != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def rows(items: Sequence[Item], folder: str) -> list[Row]:
    """Items with paths relative to `folder`, as stored in JSON files."""
    skip = len(folder) + 1
    return [(item.impath[skip:].replace(os.sep, "/"), item.label, item.classname) for item in items]


def items(stored: Sequence[Row], folder: str) -> list[Item]:
    """The inverse of `rows`.

    Raises:
        NotSuchAFile: a path leads out of the folder.
    """
    found = [Item(os.path.normpath(os.path.join(folder, path)), label, name) for path, label, name in stored]
    for item in found:
        if not item.impath.startswith(folder + os.sep):
            raise NotSuchAFile(f"{item.impath} is not in {folder}")
    return found
