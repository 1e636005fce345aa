"""EuroSAT: 27,000 satellite images of 64x64 pixels, 10 classes of land use (Helber et al., 2019)."""

from .reader import FewShotDataset, register
from .splits import Split, class_folders, divide_each

CLASS_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}


@register
class EuroSAT(FewShotDataset):
    dataset_dir = "eurosat"
    image_dir = "2750"
    split_file = "split_zhou_EuroSAT.json"

    def read_data(self) -> Split:
        return divide_each(class_folders(self.image_dir, CLASS_NAMES))
