"""ImageFolder: a user's own images, one folder per class, directly under DATASET.ROOT.

    ROOT/<class>/**/*.jpg               split here: per class 50 % for training, 20 % for validation, 30 % for testing
    ROOT/train/<class>/...              or split by the user (folder names: PARTS); val/ is optional
    ROOT/val/<class>/...
    ROOT/test/<class>/...

Reads every image with one of EXTENSIONS and 8 bits per channel, except in hidden folders. The class name in prompts is
the folder's name made readable (`readable`), inserted into DATASET.TEMPLATE.
"""

import os
import re
from collections.abc import Iterator, Sequence

from promptbias.utils.errors import UserError

from .reader import FewShotDataset, register
from .splits import Item, Split, divide_each, listing

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}  # in upper or lower case


def readable(folder: str) -> str:
    """A folder name as words: underscores and hyphens become spaces, CamelCase is split, a leading number is dropped.

    >>> readable("golden_retriever"), readable("SeaLake"), readable("F-16A"), readable("USFlag"), readable("McDonalds")
    ('golden retriever', 'Sea Lake', 'F 16A', 'US Flag', 'McDonalds')
    >>> readable("001.Black_footed_Albatross")
    'Black footed Albatross'
    """
    name = re.sub(r"[_\-]+", " ", re.sub(r"^\d+\.(?=[^\W\d])", "", folder))
    words = re.sub(r"(?<=[a-zA-Z][a-z]{2})(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(words.split())


@register
class ImageFolder(FewShotDataset):
    image_dir = "."

    def read_data(self) -> Split:
        found = {part: self.part(names) for part, names in PARTS.items()}
        parts = {part: name for part, name in found.items() if name}
        if not parts:
            return divide_each(self.classes(self.image_dir, self.class_names(self.image_dir)))
        for needed in ("train", "test"):
            if needed not in parts:
                raise UserError(
                    f"{self.image_dir} has {next(iter(parts.values()))}/ but no {needed}/ that has only class folders; "
                    f"add it, or put the class folders directly into {self.image_dir} to have them split"
                )
        names = self.class_names(os.path.join(self.image_dir, parts["train"]))
        train, val, test = (
            sum(self.classes(os.path.join(self.image_dir, parts[part]), names), []) if part in parts else []
            for part in PARTS
        )
        return train, val, test

    def part(self, names: Sequence[str]) -> str | None:
        """The folder with one of these names, if it contains only folders. (With images in it, it may be a class.)"""
        for name in _folders(self.image_dir):
            path = os.path.join(self.image_dir, name)
            if name.lower() in names and _folders(path) and not any(map(_is_image, os.listdir(path))):
                return name
        return None

    def class_names(self, folder: str) -> dict[str, str]:
        """Readable name of each class folder, sorted by folder name."""
        names: dict[str, str] = {}
        for name in _folders(folder):
            other = next((other for other, read in names.items() if read == readable(name)), None)
            if other:
                raise UserError(f'{folder}: "{other}" and "{name}" are both "{readable(name)}" in prompts; rename one')
            if not readable(name):
                raise UserError(f"{os.path.join(folder, name)} has no word in its name; rename it after its class")
            names[name] = readable(name)
        if len(names) < 2:
            raise UserError(
                f"{folder} has {len(names)} class folder(s); DATASET.ROOT (--root) must contain at least two, one per "
                "class, with its images"
            )
        return names

    def classes(self, folder: str, names: dict[str, str]) -> list[list[Item]]:
        """Images of each class in `folder`, including subfolders; its class folders must be those of `names`."""
        for name in _folders(folder):
            if name not in names:
                raise UserError(
                    f"{os.path.join(folder, name)} is a class that is not in train/; add it there, or remove it"
                )
        classes = []
        for label, (name, classname) in enumerate(names.items()):
            path = os.path.join(folder, name)
            images = sorted(_images_below(path))
            if not images:
                raise UserError(f"class folder {path} has no images ({' '.join(EXTENSIONS)}); add some, or remove it")
            classes.append([Item(image, label, classname) for image in images])
        return classes


def _folders(folder: str) -> list[str]:
    """Class folders: every folder except hidden ones and the few-shot cache."""
    return [
        name
        for name in listing(folder)
        if name != "split_fewshot" and not _is_hidden(name) and os.path.isdir(os.path.join(folder, name))
    ]


def _is_hidden(name: str) -> bool:
    """Jupyter keeps copies in .ipynb_checkpoints, Synology NAS thumbnails in @eaDir."""
    return name.startswith((".", "@"))


def _images_below(folder: str) -> Iterator[str]:
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        yield from (os.path.join(at, file) for file in filter(_is_image, files))


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
