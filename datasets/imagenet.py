"""ImageNet: 1,000 classes (Russakovsky et al., 2015), evaluated on its validation images as is common.

The four variants of its test set, for domain generalisation, are in imagenetv2.py and imagenet_*.py. They have no
training images: all of their images serve as both sets, and NUM_SHOTS and SUBSAMPLE_CLASSES do not apply.
"""

import os

from dassl.data.datasets import DatasetBase

from promptbias.utils.errors import UserError

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
        sets = self.read_coop(path, "train", "test")
        self.check_classes(sets["train"], sets["test"])
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
    return [item for label, wordnet in enumerate(folders) for item in images_in(folder, wordnet, label, names[wordnet])]


def images_in(folder: str, name: str, label: int, classname: str) -> list[Item]:
    path = os.path.join(folder, name)
    items = [Item(os.path.join(path, image), label, classname) for image in listing(path)]
    if not items:
        raise UserError(f"class folder {path} has no images; download them again")
    return items
