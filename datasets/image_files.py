"""Which files of a class folder are images, and what is said of the others."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from promptbias.model.images import image_endings


def is_hidden(name: str) -> bool:
    """Jupyter keeps copies in .ipynb_checkpoints, Synology NAS thumbnails in @eaDir."""
    return name.startswith((".", "@"))


class ImageFiles:
    """Lists the image files of class folders, and counts the files that it leaves out.

    An image is a regular file, perhaps behind a link, with the ending of a format that Pillow reads here.
    """

    def __init__(self) -> None:
        self.endings = image_endings()
        self.unread: Counter[str] = Counter()  # files, by their endings
        self.left_out: Counter[str] = Counter()  # other files, by what is wrong with them

    def has_ending(self, name: str) -> bool:
        """Whether a file has the ending of an image and is not hidden."""
        return not name.startswith(".") and os.path.splitext(name)[1].lower() in self.endings

    def names(self, folder: str) -> list[str]:
        """Sorted names of the images that lie directly in a folder."""
        return sorted(entry.name for entry in os.scandir(folder) if not _is_folder(entry) and self._is_image(entry))

    def below(self, folders: Sequence[str]) -> list[list[str]]:
        """Sorted paths of the images in each of some folders and its subfolders, each once, even if links lead to it.

        A link to another of these folders, or to one that contains them, is not followed.
        """
        seen = {_identity(folder) for folder in folders}
        seen |= {_identity(parent) for folder in folders for parent in Path(folder).absolute().parents}
        return [sorted(self._walk(folder, seen)) for folder in folders]

    def _walk(self, folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
        for entry in sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name)):
            is_folder = _is_folder(entry)
            if is_hidden(entry.name) if is_folder else not self._is_image(entry):
                continue
            identity = _identity(entry.path)
            if identity in seen:
                self.left_out["that are links to others there"] += 1
                continue
            seen.add(identity)
            if is_folder:
                yield from self._walk(entry.path, seen)
            else:
                yield entry.path

    def _is_image(self, entry: os.DirEntry) -> bool:
        """Whether an entry that is no folder is an image; if not, it is counted, unless it is hidden."""
        if entry.name.startswith("."):
            return False
        if not self.has_ending(entry.name):
            ending = os.path.splitext(entry.name)[1].lower()
            self.unread[ending if ending[1:].isalnum() and len(ending) < 10 else "without ending"] += 1
        elif not (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()):
            self.left_out["that are no regular files, or links to nothing"] += 1
        else:
            return True
        return False

    def what_is_left_out(self) -> str:
        """How many files were left out so far, and why; "" if none."""
        kinds = [f"{count:,} {kind}" for kind, count in self.left_out.items()]
        if self.unread:
            endings = [f"{count:,} {ending}" for ending, count in self.unread.most_common(8)]
            kinds.append(", ".join(endings + ["..."] * (len(self.unread) > 8)) + ", which Pillow does not read here")
        if {".heic", ".heif"} & set(self.unread):
            kinds.append("`pip install pillow-heif` makes it read .heic")
        return "; ".join(kinds)

    def say_left_out(self, folder: str) -> None:
        """Print it on stderr, in one line."""
        if self.left_out or self.unread:
            print(f"{folder}: files in class folders are left out: {self.what_is_left_out()}", file=sys.stderr)


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder or a link to one; asks the disk only about links."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _identity(path: str | Path) -> tuple[int, int]:
    """What tells a file or folder from another, whatever it is called."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
