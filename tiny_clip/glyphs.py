"""Images for pre-training: digits and capital letters in matplotlib's fonts, distorted to resemble handwriting.

No handwritten image is used: only the format of the target is known (light strokes on a dark background, few pixels).
"""

import glob
import os

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZE = 64  # pixels
FAMILIES = ("DejaVu", "STIXGeneral", "cmr10", "cmb10", "cmss10", "cmtt10", "cmti10")


def fonts() -> list[str]:
    """Paths of the fonts in matplotlib that have all characters."""
    folder = os.path.join(os.path.dirname(matplotlib.__file__), "mpl-data", "fonts", "ttf")
    paths = sorted(glob.glob(os.path.join(folder, "*.ttf")))
    return [p for p in paths if os.path.basename(p).startswith(FAMILIES) and "Display" not in p]


def render(height: int = 48, characters: str = CHARACTERS) -> Tensor:
    """Every character in every font, centred and `height` pixels tall: (fonts, characters, 64, 64) in [0, 1]."""
    glyphs = []
    for path in fonts():
        font = ImageFont.truetype(path, 96)
        for character in characters:
            left, top, right, bottom = font.getbbox(character)
            ink = Image.new("L", (int(right - left), int(bottom - top)))
            ImageDraw.Draw(ink).text((-left, -top), character, font=font, fill=255)
            width = min(round(ink.width * height / ink.height), SIZE)
            ink = ink.resize((width, height), Image.Resampling.BICUBIC)
            glyph = Image.new("L", (SIZE, SIZE))
            glyph.paste(ink, ((SIZE - width) // 2, (SIZE - height) // 2))
            glyphs.append(np.asarray(glyph))
    return torch.from_numpy(np.stack(glyphs)).float().div(255).view(-1, len(characters), SIZE, SIZE)


def coarsen(pixels: int) -> Tensor:
    """(64, 64) matrix that shrinks a column to `pixels` by averaging and enlarges it like Pillow's bicubic filter."""
    down = np.array(Image.fromarray(np.eye(SIZE, dtype=np.float32)).resize((SIZE, pixels), Image.Resampling.BOX))
    up = np.array(Image.fromarray(np.eye(pixels, dtype=np.float32)).resize((pixels, SIZE), Image.Resampling.BICUBIC))
    return torch.from_numpy(up @ down)


class Scribble:
    """Distorts clean glyphs to resemble handwriting: slant, rotation, scale, shift, warp, stroke, resolution, ink.

    Args:
        parts: a batch is split into this many parts; stroke width and resolution are drawn once per part.
    """

    def __init__(self, parts: int = 8) -> None:
        self.parts = parts
        self.coarse = torch.stack([coarsen(n) for n in (8, 8, 8, 9, 11, 16, 32, 64)])

    def __call__(self, glyphs: Tensor, strength: float, random: torch.Generator) -> Tensor:
        """(B, 64, 64) in [0, 1] -> the same shape; strength 0 changes almost nothing, 1 is the full range."""
        images = F.grid_sample(glyphs[:, None], self.sampling_grid(len(glyphs), strength, random), align_corners=False)[
            :, 0
        ]
        images = torch.cat([self.restroke(part, strength, random) for part in images.chunk(self.parts)])
        ink = 1 - 0.3 * strength * torch.rand(len(glyphs), 1, 1, generator=random)
        gamma = torch.exp(0.4 * strength * uniform(-1, 1, (len(glyphs), 1, 1), random))
        return ink * images.clamp(0, 1) ** gamma

    def sampling_grid(self, n: int, strength: float, random: torch.Generator) -> Tensor:
        """Where in the glyph each pixel is sampled: (n, 64, 64, 2), in units of half the image."""

        def draw(low: float, high: float) -> Tensor:
            return strength * uniform(low, high, (n,), random)

        angle, slant = draw(-0.25, 0.25), draw(-0.35, 0.35)
        width, height = torch.exp(-0.1 - draw(-0.25, 0.3)), torch.exp(-0.1 - draw(-0.1, 0.2))
        cos, sin = angle.cos(), angle.sin()
        rows = [cos * width, -sin * height + slant, draw(-0.15, 0.15), sin * width, cos * height, draw(-0.12, 0.12)]
        grid = F.affine_grid(torch.stack(rows, -1).view(n, 2, 3), [n, 1, SIZE, SIZE], align_corners=False)
        warp = 0.09 * strength * torch.randn(n, 2, 4, 4, generator=random)
        warp = F.interpolate(warp, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
        return grid + warp.permute(0, 2, 3, 1)

    def restroke(self, images: Tensor, strength: float, random: torch.Generator) -> Tensor:
        """Thicker strokes and a lower resolution, the same for the whole part: (n, 64, 64) -> (n, 64, 64)."""
        radius = int(torch.randint(0, 2 + round(3 * strength), (), generator=random))
        thick = F.max_pool2d(images[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]
        coarse = self.coarse[torch.randint(0, len(self.coarse), (), generator=random)]
        return coarse @ thick @ coarse.T


def uniform(low: float, high: float, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Uniform random numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=random)
