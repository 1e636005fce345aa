"""Images as people have them -> what CLIP sees."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptbias.utils.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green and blue, as OpenAI's CLIP normalises them
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Image = Any  # a PIL image, or the path of an image file


class Preprocessing(NamedTuple):
    """How a CLIP wants its images: mean and standard deviation of red, green and blue, and how they are resized."""

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: str = "bicubic"


OPENAIS = Preprocessing()


def default_preprocess(size: int, how: Preprocessing = OPENAIS) -> Callable[[Any], Tensor]:
    """CLIP's own: the shorter side to `size`, centre crop, normalised; (3, size, size)."""

    def preprocess(image: Any) -> Tensor:
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

        resize = Resize(size, InterpolationMode(how.interpolation))
        steps = [resize, CenterCrop(size), ToTensor(), Normalize(how.mean, how.std)]
        return Compose(steps)(image)

    return preprocess


def open_image(image: Image) -> Any:
    """A PIL image in RGB, from one or from a file.

    Raises:
        UserError: the file cannot be opened, or is not an image.
    """
    from PIL import Image as pillow

    if isinstance(image, pillow.Image):
        return image.convert("RGB")
    if not isinstance(image, (str, os.PathLike)):
        raise UserError(f"images must be PIL images, paths or a tensor (B, 3, S, S), not {type(image).__name__}")
    try:
        with pillow.open(image) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise UserError(f"{os.fspath(image)} cannot be read as an image ({error.strerror or error})") from error


def to_batch(images: Image | Sequence[Image] | Tensor, preprocess: Callable[[Any], Tensor], size: int) -> Tensor:
    """One or more images as (B, 3, size, size).

    Raises:
        UserError: no image, a file that is not an image, a tensor of another shape.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise UserError(f"a tensor of images must be (B, 3, {size}, {size}), not {tuple(images.shape)}")
        return images
    several = isinstance(images, Sequence) and not isinstance(images, str)
    opened = [open_image(image) for image in (images if several else [images])]
    if not opened:
        raise UserError("there is no image to predict; give at least one")
    return torch.stack([preprocess(image) for image in opened])
