"""FGVCAircraft: 10,000 photos of 100 aircraft variants (Maji et al., 2013), with its authors' split."""

import os

from .reader import FewShotDataset, register
from .splits import Item, Split, text_lines


@register
class FGVCAircraft(FewShotDataset):
    dataset_dir = "fgvc_aircraft"

    def read_data(self) -> Split:
        variants = text_lines(os.path.join(self.dataset_dir, "variants.txt"))
        train, val, test = (self.read_list(variants, part) for part in ("train", "val", "test"))
        return train, val, test

    def read_list(self, variants: list[str], part: str) -> list[Item]:
        """A line is "<image> <variant>"; a variant may contain spaces and slashes."""
        items = []
        for line in text_lines(os.path.join(self.dataset_dir, f"images_variant_{part}.txt")):
            image, _, variant = line.partition(" ")
            items.append(Item(os.path.join(self.image_dir, image + ".jpg"), variants.index(variant), variant))
        return items
