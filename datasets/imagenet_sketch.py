"""ImageNetSketch: 50,889 black-and-white sketches of ImageNet's classes (Wang et al., 2019)."""

from .imagenet import ImageNetVariant
from .reader import register


@register
class ImageNetSketch(ImageNetVariant):
    dataset_dir = "imagenet-sketch"
