"""UCF101: the middle frames of 13,320 videos of 101 actions (Soomro et al., 2012), first of its three partitions."""

import os
import re

from .reader import FewShotDataset, register
from .splits import Item, Split, hold_out, text_lines


@register
class UCF101(FewShotDataset):
    dataset_dir = "ucf101"
    image_dir = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"

    def read_data(self) -> Split:
        rows = (line.split(" ") for line in text_lines(self.path("classInd.txt")))  # "1 ApplyEyeMakeup"
        labels = {action: int(number) - 1 for number, action in rows}
        train, val = hold_out(self.read_list(labels, "trainlist01.txt"))
        return train, val, self.read_list(labels, "testlist01.txt")

    def path(self, name: str) -> str:
        return os.path.join(self.dataset_dir, "ucfTrainTestlist", name)

    def read_list(self, labels: dict[str, int], name: str) -> list[Item]:
        """A line "ApplyEyeMakeup/v_x.avi 1" is the frame Apply_Eye_Makeup/v_x.jpg; test lists have no label."""
        items = []
        for line in text_lines(self.path(name)):
            action, video = line.split(" ")[0].split("/")
            words = "_".join(re.findall("[A-Z][^A-Z]*", action))
            image = os.path.join(self.image_dir, words, video.replace(".avi", ".jpg"))
            items.append(Item(image, labels[action], words))
        return items
