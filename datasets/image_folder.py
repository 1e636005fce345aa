"""ImageFolder: a user's own images, one folder per class, directly under DATASET.ROOT.

    ROOT/<class>/**/*.jpg               half of each class is for training, a fifth for validation, the rest for testing
    ROOT/train/<class>/...              or divided by the user; val/ may be left out
    ROOT/val/<class>/...
    ROOT/test/<class>/...

Any image format that Pillow reads by one of EXTENSIONS. The class name in prompts is the folder's, made readable
(`readable`). DATASET.TEMPLATE is the sentence around it.
"""
import os
import re
from typing import Dict, List

from trainers.tuning.errors import UserError

from .reader import FewShotDataset, register
from .splits import Item, Split, divide_each, listing

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def readable(folder: str) -> str:
    """A folder's name as words: underscores and hyphens are spaces, CamelCase is taken apart.

    >>> readable("golden_retriever"), readable("SeaLake"), readable("F-16A"), readable("USFlag")
    ('golden retriever', 'Sea Lake', 'F 16A', 'US Flag')
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", re.sub(r"[_\-]+", " ", folder))
    return " ".join(words.split())


@register
class ImageFolder(FewShotDataset):
    image_dir = "."

    def read_data(self) -> Split:
        parts = [name for name in ("train", "val", "test") if self.is_part(name)]
        if not parts:
            return divide_each(self.classes(self.image_dir, self.class_names(self.image_dir)))
        for needed in ("train", "test"):
            if needed not in parts:
                raise UserError(
                    f"{self.image_dir} has {parts[0]}/ and no {needed}/; add it, or put the class folders directly "
                    f"into {self.image_dir} to have them divided"
                )
        names = self.class_names(os.path.join(self.image_dir, "train"))
        train, val, test = (
            sum(self.classes(os.path.join(self.image_dir, part), names), []) if part in parts else []
            for part in ("train", "val", "test")
        )
        return train, val, test

    def is_part(self, name: str) -> bool:
        """Whether a folder of this name is a part of the split: it holds folders and no image. (It may be a class.)"""
        path = os.path.join(self.image_dir, name)
        return os.path.isdir(path) and bool(_folders(path)) and not any(map(_is_image, os.listdir(path)))

    def class_names(self, folder: str) -> Dict[str, str]:
        """Readable name of each class folder, in the order of the folders' names."""
        names: Dict[str, str] = {}
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

    def classes(self, folder: str, names: Dict[str, str]) -> List[List[Item]]:
        """Images of each class in `folder`, sub-folders included; its class folders are those of `names`."""
        for name in _folders(folder):
            if name not in names:
                raise UserError(f"{os.path.join(folder, name)} is a class that train/ does not have; add it there")
        classes = []
        for label, (name, words) in enumerate(names.items()):
            path = os.path.join(folder, name)
            found = (os.path.join(at, file) for at, _, files in os.walk(path) for file in filter(_is_image, files))
            images = sorted(found)
            if not images:
                raise UserError(f"class folder {path} holds no image ({' '.join(EXTENSIONS)}); add some, or remove it")
            classes.append([Item(image, label, words) for image in images])
        return classes


def _folders(folder: str) -> List[str]:
    """Class folders: every folder but hidden ones and the few-shot cache."""
    return [name for name in listing(folder) if name != "split_fewshot" and os.path.isdir(os.path.join(folder, name))]


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
