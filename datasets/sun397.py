"""SUN397: 397 scene categories (Xiao et al., 2010), first of its authors' ten partitions."""

import os

from .reader import FewShotDataset, register
from .splits import Item, Split, hold_out, text_lines


@register
class SUN397(FewShotDataset):
    dataset_dir = "sun397"
    image_dir = "SUN397"
    split_file = "split_zhou_SUN397.json"

    def read_data(self) -> Split:
        scenes = [line[1:] for line in text_lines(os.path.join(self.dataset_dir, "ClassName.txt"))]  # "/a/abbey"
        train, val = hold_out(self.read_list(scenes, "Training_01.txt"))
        return train, val, self.read_list(scenes, "Testing_01.txt")

    def read_list(self, scenes: list[str], name: str) -> list[Item]:
        """A line "/c/cathedral/indoor/sun_x.jpg" is of class "indoor cathedral": no letter, reverse order."""
        labels = {scene: label for label, scene in enumerate(scenes)}
        items = []
        for line in text_lines(os.path.join(self.dataset_dir, name)):
            scene, _, _ = line[1:].rpartition("/")
            words = reversed(scene.split("/")[1:])
            items.append(Item(os.path.join(self.image_dir, line[1:]), labels[scene], " ".join(words)))
        return items
