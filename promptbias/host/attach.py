"""`promptbias attach DIR`: our configs, run scripts and one import line in a checkout, for good, and out again.

What was put there is listed with checksums in DIR/.promptbias.json. Nothing else is ever overwritten or removed.
"""

import argparse
import contextlib
import os
import stat
from collections.abc import Iterable, Sequence

import msgspec

from promptbias import __version__
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write, checksum
from promptbias.utils.paths import CONFIGS, PACKAGE

from . import train_py

RECORD = ".promptbias.json"


class Record(msgspec.Struct):
    """What was put into a checkout: the SHA-256 of each file by its path there, and the folders made for them."""

    version: str = __version__
    files: dict[str, str] = {}
    folders: list[str] = []


def our_files() -> dict[str, str]:
    """What goes into a checkout: path there -> file of this package."""
    found = {}
    for source, target, ending in (
        (os.path.join(CONFIGS, "trainers"), os.path.join("configs", "trainers"), ".yaml"),
        (os.path.join(PACKAGE, "host", "scripts"), os.path.join("scripts", "promptbias"), ".sh"),
    ):
        for folder, _, names in os.walk(source):
            for name in names:
                if name.endswith(ending):
                    path = os.path.join(folder, name)
                    found[os.path.join(target, os.path.relpath(path, source))] = path
    return dict(sorted(found.items()))


class Checkout:
    """A checkout of the CoOp family, and what was put into it.

    Raises:
        UserError: the folder has no train.py, or its record cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.train_py = os.path.realpath(os.path.join(folder, "train.py"))
        if not os.path.isfile(self.train_py):
            raise UserError(f"{folder} is not a checkout of the CoOp family: it has no train.py")
        with open(self.train_py, "rb") as file:
            self.source = file.read()
        self.record = self.read_record()

    def path(self, name: str) -> str:
        """The path of a file of the checkout."""
        return os.path.join(self.folder, name)

    def read_record(self) -> Record:
        """What `attach` put here so far."""
        path = self.path(RECORD)
        try:
            with open(path, "rb") as file:
                record = msgspec.json.decode(file.read(), type=Record)
        except FileNotFoundError:
            return Record()
        except msgspec.MsgspecError as error:
            raise UserError(f"{path} is damaged ({error}); remove it and what `promptbias attach` put here") from error
        for name in (*record.files, *record.folders):
            if os.path.isabs(name) or os.path.normpath(name).startswith(os.pardir):
                raise UserError(f"{path} names {name}, which is outside of the checkout; remove that entry")
        return record

    def write_record(self) -> None:
        """Keep what is being put here."""
        with atomic_write(self.path(RECORD), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self.record)) + b"\n")

    def write_train_py(self, source: bytes) -> None:
        """Replace train.py, with its permissions kept."""
        mode = stat.S_IMODE(os.stat(self.train_py).st_mode)
        with atomic_write(self.train_py, "wb") as file:
            file.write(source)
        os.chmod(self.train_py, mode)

    def is_unchanged(self, name: str) -> bool:
        """Whether a file that was put here is as it was put here."""
        return os.path.isfile(self.path(name)) and checksum(self.path(name)) == self.record.files[name]

    def to_write(self) -> dict[str, str]:
        """Our files that are missing here or of another version: path here -> file of this package.

        Raises:
            UserError: another file stands where one of ours belongs.
        """
        needed = {}
        for name, source in our_files().items():
            if not os.path.lexists(self.path(name)):
                needed[name] = source
            elif not os.path.isfile(self.path(name)) or checksum(self.path(name)) != checksum(source):
                if name not in self.record.files or not self.is_unchanged(name):
                    whose = "was edited" if name in self.record.files else "is not from promptbias"
                    raise UserError(f"{self.path(name)} {whose}; move it away, and attach again (nothing was changed)")
                needed[name] = source
        return needed

    def outdated(self) -> list[str]:
        """Files that an earlier version put here and this one does not have."""
        return [name for name in self.record.files if name not in our_files()]

    def new_folders(self, names: Iterable[str]) -> list[str]:
        """Folders that must be made for files, outer ones first."""
        found = []
        for name in names:
            while name := os.path.dirname(name):
                if name not in found and not os.path.isdir(self.path(name)):
                    found.append(name)
        return sorted(found)


def attach(checkout: Checkout) -> list[str]:
    """Put our files and our line into a checkout; returns what was done.

    Raises:
        UserError: something that is not ours stands in the way; nothing was changed.
    """
    files = checkout.to_write()
    source = checkout.source if train_py.has_import(checkout.source) else train_py.insert(checkout.source)
    outdated = checkout.outdated()
    done = remove_files(checkout, outdated)
    if files or outdated:
        record = checkout.record
        record.version = __version__
        record.folders += checkout.new_folders(files)
        record.files |= {name: checksum(path) for name, path in files.items()}
        checkout.write_record()  # before the files, so that an interrupted `attach` can be undone
        for name, path in files.items():
            with open(path, "rb") as ours, atomic_write(checkout.path(name), "wb") as file:
                file.write(ours.read())
        done.append(f"{len(files)} files written to configs/trainers and scripts/promptbias")
    if source != checkout.source:
        checkout.write_train_py(source)
        done.append("one line added to train.py")
    return done or ["nothing to do: attached already"]


def remove_files(checkout: Checkout, names: Sequence[str]) -> list[str]:
    """Remove files that were put here; one that was edited since stays. Returns what was done."""
    kept = []
    for name in names:
        if checkout.is_unchanged(name):
            os.remove(checkout.path(name))
        elif os.path.lexists(checkout.path(name)):
            kept.append(f"{checkout.path(name)} was edited and stays")
        del checkout.record.files[name]
    return kept


def detach(checkout: Checkout) -> list[str]:
    """Undo `attach`; returns what was done. Files that were edited since stay."""
    source = train_py.remove(checkout.source)
    done = []
    if source != checkout.source:
        checkout.write_train_py(source)
        done.append("one line removed from train.py")
    if os.path.exists(checkout.path(RECORD)):
        names = [*checkout.record.files]
        kept = remove_files(checkout, names)
        for folder in sorted(checkout.record.folders, reverse=True):  # inner ones first
            with contextlib.suppress(OSError):  # something else is in it
                os.rmdir(checkout.path(folder))
        os.remove(checkout.path(RECORD))
        done += [f"{len(names) - len(kept)} files removed", *kept]
    return done or ["nothing to do: not attached"]


def check(checkout: Checkout) -> list[str]:
    """What `attach` would do; nothing where all is in place.

    Raises:
        UserError: as `attach`.
    """
    todo = [f"{name} is missing or of another version" for name in checkout.to_write()]
    todo += [f"{name} is of an earlier version" for name in checkout.outdated()]
    if not train_py.has_import(checkout.source):
        train_py.insert(checkout.source)
        todo.append(f"train.py does not import {train_py.MODULE}")
    return todo


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="promptbias attach",
        description="Put our configs, run scripts (scripts/promptbias) and one import line into a CoOp, MaPLe or "
        "PromptSRC checkout, so that its own `python train.py` knows our trainers. `promptbias run` needs none of it.",
    )
    parser.add_argument("folder", metavar="DIR", help="the checkout")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--detach", action="store_true", help="undo it, to the byte")
    action.add_argument("--check", action="store_true", help="only say what is missing; exit status 1 if anything is")
    args = parser.parse_args(argv)
    checkout = Checkout(args.folder)
    if args.check:
        todo = check(checkout)
        print(*(todo or ["attached"]), sep="\n")
        return 1 if todo else 0
    print(*(detach if args.detach else attach)(checkout), sep="\n")
    return 0
