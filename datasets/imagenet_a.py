"""ImageNetA: 7,500 photos of 200 of ImageNet's classes that fooled a ResNet (Hendrycks et al., 2021)."""

from .imagenet import ImageNetVariant
from .reader import register


@register
class ImageNetA(ImageNetVariant):
    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
