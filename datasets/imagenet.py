"""ImageNet: 1,000 classes (Russakovsky et al., 2015), evaluated on its validation images as is common.

The four variants of its test set, for domain generalisation, are in imagenetv2.py and imagenet_*.py. They have no
training images: all of their images serve as both sets, and NUM_SHOTS and SUBSAMPLE_CLASSES do not apply.
"""

import os
from collections.abc import Mapping

from dassl.data.datasets import DatasetBase

from promptbias.utils.errors import UserError

from .drawn_elsewhere import read_coop
from .image_files import ImageFiles
from .reader import FewShotDataset, register
from .splits import Item, Split, listing, text_lines


@register
class ImageNet(FewShotDataset):
    dataset_dir = "imagenet"
    split_file = "preprocessed.json"
    same_names = True  # CLIP's class names for it are not unique
    test_is_val = True

    def split(self) -> Split:
        """The split that CoOp cached in preprocessed.pkl, if it exists."""
        path = os.path.join(self.dataset_dir, "preprocessed.pkl")
        if not os.path.exists(path):
            return super().split()
        sets = read_coop(path, self.dataset_dir, "train", "test")
        self.check_classes(sets["train"], [], sets["test"])
        return sets["train"], [], sets["test"]

    def read_data(self) -> Split:
        names = read_classnames(self.dataset_dir)
        train, test = (labelled_folders(os.path.join(self.image_dir, part), names) for part in ("train", "val"))
        return train, [], test


class ImageNetVariant(FewShotDataset):
    """A test set for models trained on ImageNet, in folders named after WordNet ids."""

    def __init__(self, cfg):
        self.locate(cfg)
        items, _, _ = self.read_annotation()
        data = self.data(items)
        DatasetBase.__init__(self, train_x=data, test=data)

    def read_data(self) -> Split:
        items = labelled_folders(self.image_dir, read_classnames(self.dataset_dir))
        return items, [], items


def read_classnames(folder: str) -> dict[str, str]:
    """Class name by WordNet id, in the order of classnames.txt, whose lines are "<WordNet id> <class name>"."""
    rows = (line.partition(" ") for line in text_lines(os.path.join(folder, "classnames.txt")))
    return {wordnet: name for wordnet, _, name in rows}


def labelled_folders(folder: str, names: dict[str, str]) -> list[Item]:
    """The images in `folder`/<WordNet id>/; labels number the existing folders in alphabetical order."""
    folders = [name for name in listing(folder) if os.path.isdir(os.path.join(folder, name))]
    return images_of(folder, {wordnet: names[wordnet] for wordnet in folders})


def images_of(folder: str, names: Mapping[str, str]) -> list[Item]:
    """The images in `folder`/<key of names>/, labels in the order of `names`.

    Raises:
        UserError: a folder has none.
    """
    files, items = ImageFiles(), []
    for label, (name, classname) in enumerate(names.items()):
        path = os.path.join(folder, name)
        found = [Item(os.path.join(path, image), label, classname) for image in files.names(path)]
        if not found:
            raise UserError(f"class folder {path} has no images; download them again")
        items += found
    files.say_left_out(folder)
    return items
