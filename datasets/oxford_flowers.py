"""OxfordFlowers: 8,189 photos of 102 flowers (Nilsback and Zisserman, 2008)."""

import os

import msgspec

from .reader import FewShotDataset, register
from .splits import Item, Split, divide_each, open_annotation, read_mat


@register
class OxfordFlowers(FewShotDataset):
    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"

    def read_data(self) -> Split:
        labels = read_mat(os.path.join(self.dataset_dir, "imagelabels.mat"))["labels"][0]  # from 1, one per image
        with open_annotation(os.path.join(self.dataset_dir, "cat_to_name.json")) as file:
            names = msgspec.json.decode(file.read(), type=dict[str, str])
        flowers: dict[int, list[Item]] = {}
        for number, label in enumerate(map(int, labels), start=1):
            image = os.path.join(self.image_dir, f"image_{number:05}.jpg")
            flowers.setdefault(label, []).append(Item(image, label - 1, names[str(label)]))
        return divide_each(list(flowers.values()))
