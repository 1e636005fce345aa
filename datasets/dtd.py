"""DescribableTextures: 5,640 textures in 47 categories (Cimpoi et al., 2014)."""

from .reader import FewShotDataset, register
from .splits import Split, class_folders, divide_each


@register
class DescribableTextures(FewShotDataset):
    dataset_dir = "dtd"
    split_file = "split_zhou_DescribableTextures.json"

    def read_data(self) -> Split:
        return divide_each(class_folders(self.image_dir))
