"""ImageFolder: a user's own images, one folder per class, directly under DATASET.ROOT.

    ROOT/<class>/**/*.jpg               split here: per class 50 % for training, 20 % for validation, 30 % for testing
    ROOT/train/<class>/...              or split by the user (folder names: PARTS); val/ is optional
    ROOT/val/<class>/...
    ROOT/test/<class>/...

Reads the images of every format that Pillow reads, except in hidden folders, and says what it leaves out. The class
name in prompts is the folder's name made readable (`readable`), inserted into DATASET.TEMPLATE.
"""

import os
import re
import unicodedata

from promptbias.utils.errors import UserError

from .image_files import ImageFiles, is_hidden
from .reader import FewShotDataset, register
from .splits import Item, Split, divide_each, listing, text_of

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
    name = re.sub(r"[_\-]+", " ", re.sub(r"^\d+\.(?=[^\W\d])", "", _nfc(folder)))
    words = re.sub(r"(?<=[a-zA-Z][a-z]{2})(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(words.split())


@register
class ImageFolder(FewShotDataset):
    image_dir = "."

    def read_data(self) -> Split:
        files = ImageFiles()
        parts = {part: folder for part in PARTS if (folder := self.part(part, files))}
        if not parts:
            classes = self.classes(self.image_dir, self.class_names(self.image_dir), files)
            files.say_left_out(self.image_dir)
            return divide_each(classes)
        for needed in ("train", "test"):
            if needed not in parts:
                raise UserError(
                    f"{self.image_dir} has {next(iter(parts.values()))}/ but no {needed}/ that has only class folders; "
                    f"add it, or put the class folders directly into {self.image_dir} to have them split"
                )
        names = self.class_names(parts["train"])
        train, val, test = (sum(self.classes(parts[part], names, files), []) if part in parts else [] for part in PARTS)
        files.say_left_out(self.image_dir)
        return train, val, test

    def part(self, part: str, files: ImageFiles) -> str | None:
        """The folder of a part, if it contains only folders. (With images in it, it may be a class.)"""
        for name in _folders(self.image_dir):
            path = os.path.join(self.image_dir, name)
            if name.lower() in PARTS[part] and _folders(path) and not any(map(files.has_ending, os.listdir(path))):
                return path
        return None

    def class_names(self, folder: str) -> dict[str, str]:
        """Readable name of each class folder, in the order of the folders' names, which are in Unicode's form NFC."""
        names: dict[str, str] = {}
        folders: dict[str, str] = {}
        for name in _folders(folder):
            other = folders.setdefault(text_of(readable(name)), name)
            if other != name:
                raise UserError(
                    f'{folder}: "{other}" and "{name}" are both "{text_of(readable(name))}" to CLIP, which reads lower '
                    "case; rename one"
                )
            if not readable(name):
                raise UserError(f"{os.path.join(folder, name)} has no word in its name; rename it after its class")
            names[_nfc(name)] = readable(name)
        if len(names) < 2:
            raise UserError(
                f"{folder} has {len(names)} class folder(s); DATASET.ROOT (--root) must contain at least two, one per "
                "class, with its images"
            )
        return names

    def classes(self, folder: str, names: dict[str, str], files: ImageFiles) -> list[list[Item]]:
        """Images of each class in `folder`, including subfolders; its class folders must be those of `names`."""
        folders = {_nfc(name): os.path.join(folder, name) for name in _folders(folder)}
        for name, path in folders.items():
            if name not in names:
                raise UserError(f"{path} is a class that is not in train/; add it there, or remove it")
        for name in names:
            if name not in folders:
                raise UserError(f"class folder {os.path.join(folder, name)} has no images; add some, or remove it")
        classes: list[list[Item]] = []
        for (name, classname), images in zip(names.items(), files.below([folders[name] for name in names])):
            if not images:
                left_out = files.what_is_left_out()
                others = f" (of all class folders, these files are left out: {left_out})" if left_out else ""
                raise UserError(f"class folder {folders[name]} has no images{others}; add some, or remove it")
            classes.append([Item(image, len(classes), classname) for image in images])
        return classes


def _nfc(name: str) -> str:
    """macOS writes an accented letter as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def _folders(folder: str) -> list[str]:
    """Class folders: every folder except hidden ones and the few-shot cache."""
    return [
        name
        for name in listing(folder)
        if name != "split_fewshot" and not is_hidden(name) and os.path.isdir(os.path.join(folder, name))
    ]
