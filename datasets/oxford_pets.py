"""OxfordPets: 7,349 photos of cats and dogs of 37 breeds (Parkhi et al., 2012)."""

import os

from .reader import FewShotDataset, register
from .splits import Item, Split, hold_out, text_lines


@register
class OxfordPets(FewShotDataset):
    dataset_dir = "oxford_pets"
    split_file = "split_zhou_OxfordPets.json"

    def read_data(self) -> Split:
        train, val = hold_out(self.read_list("trainval.txt"))
        return train, val, self.read_list("test.txt")

    def read_list(self, name: str) -> list[Item]:
        """A line is "<breed>_<number> <label from 1> <species> <breed of its species>"."""
        items = []
        for line in text_lines(os.path.join(self.dataset_dir, "annotations", name)):
            image, label, _, _ = line.split(" ")
            breed, _, _ = image.rpartition("_")
            items.append(Item(os.path.join(self.image_dir, image + ".jpg"), int(label) - 1, breed.lower()))
        return items
