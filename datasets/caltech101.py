"""Caltech101: 100 object categories (Fei-Fei et al., 2004), without the background and one of its two face classes."""

from .reader import FewShotDataset, register
from .splits import Split, class_folders, divide_each

IGNORED = ("BACKGROUND_Google", "Faces_easy")
CLASS_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


@register
class Caltech101(FewShotDataset):
    dataset_dir = "caltech-101"
    image_dir = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"

    def read_data(self) -> Split:
        return divide_each(class_folders(self.image_dir, CLASS_NAMES, IGNORED))
