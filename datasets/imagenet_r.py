"""ImageNetR: 30,000 renditions (drawings, sculptures, ...) of 200 of ImageNet's classes (Hendrycks et al., 2021)."""

from .imagenet import ImageNetVariant
from .reader import register


@register
class ImageNetR(ImageNetVariant):
    dataset_dir = "imagenet-rendition"
    image_dir = "imagenet-r"
