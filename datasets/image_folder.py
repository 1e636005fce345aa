"""ImageFolder: a user's own images, one folder per class, directly under DATASET.ROOT.

    ROOT/<class>/**/*.jpg               half of each class is for training, a fifth for validation, the rest for testing
    ROOT/train/<class>/...              or divided by the user, in PARTS; val/ may be left out
    ROOT/val/<class>/...
    ROOT/test/<class>/...

Any image with 8 bits per channel that Pillow reads, by one of EXTENSIONS; nothing in hidden folders. The class name in
prompts is the folder's, made readable (`readable`). DATASET.TEMPLATE is the sentence around it.
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
}  # in any case


def readable(folder: str) -> str:
    """A folder's name as words: underscores and hyphens are spaces, CamelCase is taken apart, a number before it left out.

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
                    f"{self.image_dir} has {next(iter(parts.values()))}/ and no {needed}/ with class folders and no image "
                    f"beside them; add it, or put the class folders directly into {self.image_dir} to have them divided"
                )
        names = self.class_names(os.path.join(self.image_dir, parts["train"]))
        train, val, test = (
            sum(self.classes(os.path.join(self.image_dir, parts[part]), names), []) if part in parts else []
            for part in PARTS
        )
        return train, val, test

    def part(self, names: Sequence[str]) -> str | None:
        """The folder of one of these names, if it holds folders and no image. (Otherwise it may be a class.)"""
        for name in _folders(self.image_dir):
            path = os.path.join(self.image_dir, name)
            if name.lower() in names and _folders(path) and not any(map(_is_image, os.listdir(path))):
                return name
        return None

    def class_names(self, folder: str) -> dict[str, str]:
        """Readable name of each class folder, in the order of the folders' names."""
        names: dict[str, str] = {}
        for name in _folders(folder):
            other = next((other for other, read in names.items() if read == readable(name)), None)
            if other:
                raise UserError(f'{folder}: "{other}" and "{name}" both read "{readable(name)}" in prompts; rename one')
            if not readable(name):
                raise UserError(f"{os.path.join(folder, name)} has no word in its name; name it as its class is called")
            names[name] = readable(name)
        if len(names) < 2:
            raise UserError(
                f"{folder} holds {len(names)} class folder(s); DATASET.ROOT (--root) should hold one folder per class, "
                "at least two, with that class's images"
            )
        return names

    def classes(self, folder: str, names: dict[str, str]) -> list[list[Item]]:
        """Images of each class in `folder`, sub-folders included; its class folders are those of `names`."""
        for name in _folders(folder):
            if name not in names:
                raise UserError(f"{os.path.join(folder, name)} is a class that train/ does not have; add it there")
        classes = []
        for label, (name, words) in enumerate(names.items()):
            path = os.path.join(folder, name)
            images = sorted(_images_below(path))
            if not images:
                raise UserError(f"class folder {path} holds no image ({' '.join(EXTENSIONS)}); add some, or remove it")
            classes.append([Item(image, label, words) for image in images])
        return classes


def _folders(folder: str) -> list[str]:
    """Class folders: every folder but hidden ones and the few-shot cache."""
    return [
        name
        for name in listing(folder)
        if name != "split_fewshot" and not _is_hidden(name) and os.path.isdir(os.path.join(folder, name))
    ]


def _is_hidden(name: str) -> bool:
    """Notebooks keep copies in .ipynb_checkpoints, disk stations thumbnails in @eaDir."""
    return name.startswith((".", "@"))


def _images_below(folder: str) -> Iterator[str]:
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        yield from (os.path.join(at, file) for file in filter(_is_image, files))


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
