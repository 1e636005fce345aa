"""Which files of a class folder are images, and what is said of the others."""

import os
import sys
from collections import Counter
from collections.abc import Iterator

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
        return not is_hidden(name) and os.path.splitext(name)[1].lower() in self.endings

    def names(self, folder: str) -> list[str]:
        """Sorted names of the images that lie directly in a folder."""
        return sorted(e.name for e in os.scandir(folder) if not os.path.isdir(e.path) and self._is_image(e))

    def below(self, folder: str) -> list[str]:
        """Sorted paths of the images in a folder and its subfolders, each once, even if links lead to it."""
        return sorted(self._walk(folder, {_identity(folder)}))

    def _walk(self, folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
        for entry in sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name)):
            is_folder = os.path.isdir(entry.path)
            if is_hidden(entry.name) or not (is_folder or self._is_image(entry)):
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
        if is_hidden(entry.name):
            return False
        if not self.has_ending(entry.name):
            self.unread[os.path.splitext(entry.name)[1].lower() or "without ending"] += 1
        elif not os.path.isfile(entry.path):
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


def _identity(path: str) -> tuple[int, int]:
    """What tells a file or folder from another, whatever it is called."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
