"""ImageNetV2: 10,000 new test images for ImageNet (Recht et al., 2019), its matched-frequency set."""

from promptbias.utils.errors import UserError

from .imagenet import ImageNetVariant, images_of, read_classnames
from .reader import register
from .splits import Split, listing


@register
class ImageNetV2(ImageNetVariant):
    dataset_dir = "imagenetv2"
    image_dir = "imagenetv2-matched-frequency-format-val"

    def read_data(self) -> Split:
        """Its folders are numbered 0 to 999, in the order of classnames.txt."""
        names = read_classnames(self.dataset_dir).values()
        folders = len(listing(self.image_dir))
        if folders != len(names):
            raise UserError(
                f"{self.image_dir} has {folders} folders for the {len(names)} classes of classnames.txt; download both"
            )
        items = images_of(self.image_dir, {str(number): name for number, name in enumerate(names)})
        return items, [], items
