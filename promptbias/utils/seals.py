"""Checksums inside our own files, so that what is read is what was written.

A seal is the SHA-256 of a file's content. It is where other readers of the format do not look: the comment of a zip
archive (which `torch.load` skips), a comment line at the end of a text, a key "sha256" of a JSON object. Files of
other programs, and of earlier versions of this one, have none.
"""

import hashlib
import json
import os
import sys
from typing import Any, TypeVar

import msgspec

from promptbias.utils.errors import UserError
from promptbias.utils.files import CHUNK, atomic_write, regular_file

Schema = TypeVar("Schema", bound=msgspec.Struct)

ZIP_MARK = b"promptbias-sha256:"
ZIP_SEAL = len(ZIP_MARK) + 64  # bytes
TEXT_MARK = "# sha256 of the above: "
JSON_KEY = "sha256"
POINTER = "checkpoint"  # Dassl's file that names the checkpoint beside it


_unsealed: list[str] = []  # the first file of this process that has no seal, and stands for all


def say_unsealed(path: str) -> None:
    """Say that a file has no seal, if it is the first."""
    if not _unsealed:
        _unsealed.append(path)
        print(f"{path} has no checksum, like all files of earlier versions; damage may go unnoticed", file=sys.stderr)


def broken(path: str) -> UserError:
    """What to say of a file whose content does not match its seal."""
    return UserError(f"{path} is damaged: its content does not match the checksum in it; restore it from a copy")


def seal_zip(archive: bytes) -> bytes:
    """A zip archive without a comment, with its seal as the comment."""
    content = archive[:-2] + ZIP_SEAL.to_bytes(2, "little")  # the last field is the length of the comment
    return content + ZIP_MARK + hashlib.sha256(content).hexdigest().encode()


def check_zip(path: str) -> bool:
    """Whether a file is a zip archive with a seal.

    Raises:
        OSError: it cannot be opened.
        UserError: it is not a file, or its content does not match the seal.
    """
    digest = hashlib.sha256()
    with open(regular_file(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size - ZIP_SEAL
        file.seek(max(size, 0))
        seal = file.read()
        if size < 0 or not seal.startswith(ZIP_MARK):
            return False
        file.seek(0)
        while chunk := file.read(min(CHUNK, size - file.tell())):
            digest.update(chunk)
    if seal != ZIP_MARK + digest.hexdigest().encode():
        raise broken(path)
    return True


def seal_text(text: str) -> str:
    """A text of whole lines, with its seal in another line."""
    return f"{text}{TEXT_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"


def read_text(path: str) -> str:
    """The text in a file, without its seal.

    Raises:
        OSError: it cannot be opened.
        UserError: it is not a file, not UTF-8, or does not match its seal.
    """
    try:
        with open(regular_file(path), encoding="utf-8") as file:
            content = file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: it is not text in UTF-8; restore it from a copy") from error
    text, mark, _ = content.rpartition(TEXT_MARK)
    if not mark:
        say_unsealed(path)
        return content
    if content != seal_text(text):
        raise UserError(
            f"{path} is not as it was written, says the checksum in its last line; restore it from a copy, or remove "
            "that line if you changed the file on purpose"
        )
    return text


def write_pointer(folder: str, name: str) -> None:
    """Write Dassl's file `checkpoint`, of which Dassl reads the first line."""
    with atomic_write(os.path.join(folder, POINTER)) as file:
        file.write(seal_text(name + "\n"))


def read_pointer(folder: str) -> str:
    """The name of the checkpoint that the file `checkpoint` in `folder` gives.

    Raises:
        OSError: it cannot be opened.
        UserError: it is damaged, or names nothing in this folder.
    """
    path = os.path.join(folder, POINTER)
    name = read_text(path).partition("\n")[0].strip()
    if not name or name in (os.curdir, os.pardir) or os.path.basename(name) != name or "\0" in name:
        raise UserError(f"{path} must name a checkpoint in its own folder, not {name[:100]!r}; write that name into it")
    return name


def seal_json(content: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal as another key, which depends on the values and not on how they are written."""
    text = json.dumps({key: value for key, value in content.items() if key != JSON_KEY}, sort_keys=True)
    return {**content, JSON_KEY: hashlib.sha256(text.encode()).hexdigest()}


def read_json(path: str, schema: type[Schema]) -> tuple[dict[str, Any], Schema]:
    """The JSON object in a file, and what of it is in a msgspec schema.

    Raises:
        OSError: it cannot be opened.
        UserError: it is not a file, not JSON, not as the schema says, or does not match its seal.
    """
    with open(regular_file(path), "rb") as file:
        text = file.read()
    try:
        content = msgspec.json.decode(text)
        found = msgspec.convert(content, schema)
        sealed = JSON_KEY in content
        intact = not sealed or content == seal_json(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run again") from error
    if not intact:
        raise broken(path)
    if not sealed:
        say_unsealed(path)
    return content, found
