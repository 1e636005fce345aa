"""Image transforms by name, applied in a fixed order regardless of the order of the names."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from dassl.utils import ConfigError
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from yacs.config import CfgNode

from promptbias.utils.errors import nearest

__all__ = ["INTERPOLATION_MODES", "build_transform"]

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",  # always applied for evaluation
    "cutout",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]


class Random2DTranslation:
    """With probability `p` resize to 9/8 of the size and crop a random window; otherwise only resize."""

    def __init__(
        self, height: int, width: int, p: float = 0.5, interpolation: InterpolationMode = InterpolationMode.BILINEAR
    ):
        self.size = [height, width]
        self.p = p
        self.interpolation = interpolation

    def __call__(self, img: Image.Image) -> Image.Image:
        if random.uniform(0, 1) > self.p:
            return F.resize(img, self.size, self.interpolation)
        height, width = self.size
        large = [int(round(side * 1.125)) for side in self.size]
        left = int(round(random.uniform(0, large[1] - width)))
        top = int(round(random.uniform(0, large[0] - height)))
        return F.crop(F.resize(img, large, self.interpolation), top, left, height, width)


class InstanceNormalization:
    """Normalises each channel of an image to mean 0 and standard deviation 1."""

    def __init__(self, eps: float = 1e-8):
        self.eps = eps

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """img: (C, H, W)."""
        flat = img.flatten(1)
        mean, std = (x.view(-1, 1, 1) for x in (flat.mean(1), flat.std(1)))
        return (img - mean) / (std + self.eps)


class Cutout:
    """Sets `n_holes` randomly placed squares with sides of `length` pixels to zero (arXiv 1708.04552)."""

    def __init__(self, n_holes: int = 1, length: int = 16):
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """img: (C, H, W)."""
        img = img.clone()
        half = self.length // 2
        for _ in range(self.n_holes):
            y, x = (np.random.randint(side) for side in img.shape[1:])
            img[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return img


class GaussianNoise:
    """With probability `p` adds Gaussian noise to every pixel."""

    def __init__(self, mean: float = 0.0, std: float = 0.15, p: float = 0.5):
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        if random.uniform(0, 1) > self.p:
            return img
        return img + torch.randn(img.shape) * self.std + self.mean


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> Any:
    """The transforms that `INPUT.TRANSFORMS` names: PIL image -> float tensor (3, H, W).

    Args:
        is_train: with augmentation; otherwise the shorter side is resized to the longer of `INPUT.SIZE`, and the
            centre is cropped.
        choices: replaces `INPUT.TRANSFORMS`.

    Returns:
        A torchvision transform, or None if `INPUT.NO_TRANSFORM` is set.

    Raises:
        ConfigError: an unknown transform or interpolation.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice not in AVAI_CHOICES:
            raise ConfigError(f'INPUT.TRANSFORMS: "{choice}" is not a transform; {nearest(choice, AVAI_CHOICES)}')
    if cfg.INPUT.INTERPOLATION not in INTERPOLATION_MODES:
        raise ConfigError(
            f'INPUT.INTERPOLATION must be one of {", ".join(INTERPOLATION_MODES)}, not "{cfg.INPUT.INTERPOLATION}"'
        )
    print(f"Building transform_{'train' if is_train else 'test'}")
    steps = []
    for enabled, line, make in (_train_steps if is_train else _test_steps)(cfg.INPUT, set(choices)):
        if enabled:
            print(f"+ {line}")
            steps.append(make())
    return T.Compose(steps)


# a step: whether it is enabled, its log line, its constructor
Step = tuple[bool, str, Callable[[], Any]]


def _train_steps(cfg: CfgNode, choices: set[str]) -> list[Step]:
    size, interpolation = cfg.SIZE, INTERPOLATION_MODES[cfg.INTERPOLATION]
    return [
        (
            not choices & {"random_crop", "random_resized_crop"},
            f"resize to {size[0]}x{size[1]}",
            lambda: T.Resize(size, interpolation),
        ),
        ("random_translation" in choices, "random translation", lambda: Random2DTranslation(*size)),
        (
            "random_crop" in choices,
            f"random crop (padding = {cfg.CROP_PADDING})",
            lambda: T.RandomCrop(size, padding=cfg.CROP_PADDING),
        ),
        (
            "random_resized_crop" in choices,
            f"random resized crop (size={size}, scale={cfg.RRCROP_SCALE})",
            lambda: T.RandomResizedCrop(size, scale=cfg.RRCROP_SCALE, interpolation=interpolation),
        ),
        ("random_flip" in choices, "random flip", T.RandomHorizontalFlip),
        _color_jitter(cfg, choices),
        ("randomgrayscale" in choices, "random gray scale", lambda: T.RandomGrayscale(p=cfg.RGS_P)),
        (
            "gaussian_blur" in choices,
            f"gaussian blur (kernel={cfg.GB_K})",
            lambda: T.RandomApply([T.GaussianBlur(cfg.GB_K)], p=cfg.GB_P),
        ),
        (True, "to torch tensor of range [0, 1]", T.ToTensor),
        (
            "cutout" in choices,
            f"cutout (n_holes={cfg.CUTOUT_N}, length={cfg.CUTOUT_LEN})",
            lambda: Cutout(cfg.CUTOUT_N, cfg.CUTOUT_LEN),
        ),
        _normalize(cfg, choices),
        (
            "gaussian_noise" in choices,
            f"gaussian noise (mean={cfg.GN_MEAN}, std={cfg.GN_STD})",
            lambda: GaussianNoise(cfg.GN_MEAN, cfg.GN_STD),
        ),
        _instance_norm(choices),
    ]


def _test_steps(cfg: CfgNode, choices: set[str]) -> list[Step]:
    size, interpolation = cfg.SIZE, INTERPOLATION_MODES[cfg.INTERPOLATION]
    return [
        (True, f"resize the smaller edge to {max(size)}", lambda: T.Resize(max(size), interpolation)),
        (True, f"{size[0]}x{size[1]} center crop", lambda: T.CenterCrop(size)),
        (True, "to torch tensor of range [0, 1]", T.ToTensor),
        _normalize(cfg, choices),
        _instance_norm(choices),
    ]


def _color_jitter(cfg: CfgNode, choices: set[str]) -> Step:
    strengths = {
        "brightness": cfg.COLORJITTER_B,
        "contrast": cfg.COLORJITTER_C,
        "saturation": cfg.COLORJITTER_S,
        "hue": cfg.COLORJITTER_H,
    }
    line = f"color jitter ({', '.join(f'{name}={value}' for name, value in strengths.items())})"
    return "colorjitter" in choices, line, lambda: T.ColorJitter(**strengths)


def _normalize(cfg: CfgNode, choices: set[str]) -> Step:
    return (
        "normalize" in choices,
        f"normalization (mean={cfg.PIXEL_MEAN}, std={cfg.PIXEL_STD})",
        lambda: T.Normalize(cfg.PIXEL_MEAN, cfg.PIXEL_STD),
    )


def _instance_norm(choices: set[str]) -> Step:
    return "instance_norm" in choices, "instance normalization", InstanceNormalization
