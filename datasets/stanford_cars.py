"""StanfordCars: 16,185 photos of 196 makes, models and years (Krause et al., 2013)."""

import os

from .reader import FewShotDataset, register
from .splits import Item, Split, hold_out, read_mat


@register
class StanfordCars(FewShotDataset):
    dataset_dir = "stanford_cars"
    image_dir = "."
    split_file = "split_zhou_StanfordCars.json"

    def read_data(self) -> Split:
        train, val = hold_out(self.read_list("cars_train", "devkit/cars_train_annos.mat"))
        return train, val, self.read_list("cars_test", "cars_test_annos_withlabels.mat")

    def read_list(self, folder: str, annotation: str) -> list[Item]:
        """The year, last in the published names, comes first: "2012 Acura RL Sedan"."""
        names = read_mat(os.path.join(self.dataset_dir, "devkit", "cars_meta.mat"))["class_names"][0]
        items = []
        for row in read_mat(os.path.join(self.dataset_dir, annotation))["annotations"][0]:
            label = int(row["class"][0, 0]) - 1
            model, _, year = str(names[label][0]).rpartition(" ")
            items.append(Item(os.path.join(self.dataset_dir, folder, str(row["fname"][0])), label, f"{year} {model}"))
        return items
