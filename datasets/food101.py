"""Food101: 101,000 photos of 101 dishes (Bossard et al., 2014)."""

from .reader import FewShotDataset, register
from .splits import Split, class_folders, divide_each


@register
class Food101(FewShotDataset):
    dataset_dir = "food-101"
    split_file = "split_zhou_Food101.json"

    def read_data(self) -> Split:
        return divide_each(class_folders(self.image_dir))
