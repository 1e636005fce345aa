"""Rendered scenes for pre-training: a distorted glyph with a colour, size and place, on a background, with company.

Made from torch operations on whole batches, so that a batch costs a small part of a training step. Some hues of
ink, one texture (dots) and all of Hershey's fonts are kept for `tiny_clip.evaluate`.
"""

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .captions import DIGITS
from .glyphs import CHARACTERS, SIZE, Scribble, render, uniform
from .grammar import BACKGROUNDS, COLOURS, NAMES, PLACES, SHAPES, SIZES, STYLES, Scene

RGB = torch.tensor(  # of COLOURS
    [
        *([1.0, 1.0, 1.0], [1.0, 0.15, 0.15], [0.1, 0.9, 0.2], [0.2, 0.35, 1.0], [1.0, 0.95, 0.1], [0.65, 0.65, 0.65]),
        [0.1, 0.1, 0.1],
    ]
)
ON_LIGHT = {"black": 1.0, "red": 0.3, "green": 0.3, "blue": 0.3}  # how often a colour stands on a light background
EXTENTS = ((0.45, 0.62), (0.62, 0.82), (0.82, 1.05))  # of SIZES: the glyph's size relative to the image
SHIFTS = torch.tensor([[0.0, 0.0], [-0.5, 0.0], [0.5, 0.0], [0.0, -0.5], [0.0, 0.5]])  # of PLACES, x and y
GLYPHS = CHARACTERS + "abcdefghijklmnopqrstuvwxyz"
PLAIN = 0.4  # of the images are a light glyph on black and nothing else, as handwriting is in Digits


class Drawn(NamedTuple):
    """A batch.

    Attributes:
        images: (B, 3, 64, 64) in [0, 1].
        labels: (B,) indices of NAMES.
        scenes: what is in them.
    """

    images: Tensor
    labels: Tensor
    scenes: list[Scene]


class Scenes:
    """Draws batches of scenes."""

    def __init__(self) -> None:
        capitals, lower = render(), render(characters=GLYPHS[len(CHARACTERS) :])
        self.glyphs, self.scribble = torch.cat([capitals, lower], 1), Scribble()
        axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")

    def __call__(self, count: int, strength: float, variety: float, seed: int) -> Drawn:
        """
        Args:
            strength: of the distortion, 0 to 1, as for `Scribble`.
            variety: how many of the images that are not to be plain, 0 to 1, are not.
        """
        draw, choose = torch.Generator().manual_seed(seed), random.Random(seed)
        characters = torch.tensor(
            [choose.randrange(10) if choose.random() < 0.5 else choose.randrange(10, 62) for _ in range(count)]
        )
        labels = torch.where(characters < len(CHARACTERS), characters, characters - 26)
        fonts = torch.randint(len(self.glyphs), (count,), generator=draw)
        ink = self.scribble(self.glyphs[fonts, characters], strength, draw)
        plain = torch.tensor([choose.random() > variety * (1 - PLAIN) for _ in range(count)])
        scenes = [self.scene(int(label), bool(is_plain), choose) for label, is_plain in zip(labels, plain)]
        return Drawn(self.compose(ink, plain, scenes, draw, choose), labels, scenes)

    @staticmethod
    def scene(label: int, plain: bool, choose: random.Random) -> Scene:
        """What is in an image of a class."""
        of_digit = label < len(DIGITS)
        kind = (
            ("digit" if choose.random() < 0.8 else "number")
            if of_digit
            else ("letter" if choose.random() < 0.8 else "character")
        )
        if plain:
            return Scene(NAMES[label], kind, "white", "plain", "large", "center", "clean")
        size = choose.choice(SIZES)
        other = ""
        if size != "large" and choose.random() < 0.4:
            other = f"a {choose.choice(COLOURS)} {choose.choice(SHAPES)}"
        place = choose.choice(PLACES) if size != "large" else "center"
        colour, background = choose.choice(COLOURS), choose.choice(BACKGROUNDS)
        return Scene(NAMES[label], kind, colour, background, size, place, choose.choice(STYLES), other)

    def compose(
        self, ink: Tensor, plain: Tensor, scenes: list[Scene], draw: torch.Generator, choose: random.Random
    ) -> Tensor:
        """Ink (B, 64, 64) in its scenes: (B, 3, 64, 64)."""
        n = len(scenes)
        placed = self.place(ink, scenes, draw)
        colours = RGB[[COLOURS.index(scene.colour) for scene in scenes]]
        colours = (colours * uniform(0.8, 1.0, (n, 3), draw))[:, :, None, None]
        background = self.background(scenes, draw)
        clutter = self.clutter(n, draw)
        level = uniform(0.3, 0.7, (n, 1, 1, 1), draw)
        background = background * (1 - clutter) + clutter * level
        light = torch.tensor([choose.random() < ON_LIGHT.get(scene.colour, 0.0) for scene in scenes])
        background = torch.where(light[:, None, None, None], 1 - background, background)
        for b, scene in enumerate(scenes):
            if scene.other:
                _, colour, shape = scene.other.split()
                mask = self.shape(shape, scene.place, choose)
                background[b] = background[b] * (1 - mask) + 0.8 * RGB[COLOURS.index(colour)][:, None, None] * mask
        picture = background * (1 - placed) + colours * placed
        picture = self.degrade(picture, scenes, draw)
        return torch.where(plain[:, None, None, None], ink[:, None].expand(-1, 3, -1, -1), picture).clamp(0, 1)

    @staticmethod
    def place(ink: Tensor, scenes: list[Scene], draw: torch.Generator) -> Tensor:
        """The ink at its size, place and tilt: (B, 1, 64, 64)."""
        n = len(scenes)
        extent = torch.tensor([EXTENTS[SIZES.index(scene.size)] for scene in scenes])
        scale = extent[:, 0] + (extent[:, 1] - extent[:, 0]) * torch.rand(n, generator=draw)
        tilt = torch.tensor([0.7 if scene.style == "tilted" else 0.15 for scene in scenes])
        angle = tilt * uniform(-1, 1, (n,), draw)
        shift = SHIFTS[[PLACES.index(scene.place) for scene in scenes]] + uniform(-0.15, 0.15, (n, 2), draw)
        shift = shift * (1.15 - scale)[:, None].clamp(min=0)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        rows = torch.stack(
            [cos, -sin, -cos * shift[:, 0] + sin * shift[:, 1], sin, cos, -sin * shift[:, 0] - cos * shift[:, 1]], -1
        )
        grid = F.affine_grid(rows.view(n, 2, 3), [n, 1, SIZE, SIZE], align_corners=False)
        return F.grid_sample(ink[:, None], grid, align_corners=False)

    def background(self, scenes: list[Scene], draw: torch.Generator) -> Tensor:
        """(B, 3, 64, 64), dark, in two colours that a pattern mixes."""
        n = len(scenes)
        turn, period = uniform(-3.2, 3.2, (n, 1, 1), draw), uniform(0.2, 0.7, (n, 1, 1), draw)
        along = self.x * turn.cos() + self.y * turn.sin()
        across = self.y * turn.cos() - self.x * turn.sin()
        coarse, fine = (
            F.interpolate(torch.rand(n, 1, k, k, generator=draw), size=(SIZE, SIZE), mode="bilinear")[:, 0]
            for k in (4, 11)
        )
        patterns = {
            "plain": torch.zeros(n, SIZE, SIZE),
            "striped": ((along / period) % 1 - 0.5).abs() * 2,
            "checked": ((along / period).floor() + (across / period).floor()) % 2,
            "cloudy": 0.6 * coarse + 0.4 * fine,
            "shaded": (along + 1.4) / 2.8,
        }
        pattern = torch.stack([patterns[scene.background][b] for b, scene in enumerate(scenes)])[:, None]
        dark, light = uniform(0, 0.15, (n, 3, 1, 1), draw), uniform(0.1, 0.6, (n, 3, 1, 1), draw)
        grey = (torch.rand(n, 1, 1, 1, generator=draw) < 0.4).float()
        light = grey * light.mean(1, keepdim=True) + (1 - grey) * light
        return dark + (light - dark) * pattern

    def shape(self, name: str, place: str, choose: random.Random) -> Tensor:
        """A small shape away from a place: (64, 64) of 0 and 1."""
        away = -SHIFTS[PLACES.index(place)]
        if not away.any():
            away = torch.tensor([choose.choice((-0.6, 0.6)), choose.choice((-0.6, 0.6))])
        r = choose.uniform(0.15, 0.28)
        x, y = self.x - 1.3 * away[0] - choose.uniform(-0.1, 0.1), self.y - 1.3 * away[1] - choose.uniform(-0.1, 0.1)
        length = (x * x + y * y).sqrt()
        masks = {
            "circle": length < r,
            "ring": (length < r) & (length > 0.55 * r),
            "square": (x.abs() < r) & (y.abs() < r),
            "triangle": (y < r) & (y > 2 * x.abs() - r),
            "cross": ((x.abs() < 0.3 * r) | (y.abs() < 0.3 * r)) & (x.abs() < r) & (y.abs() < r),
            "bar": (x.abs() < 1.3 * r) & (y.abs() < 0.35 * r),
        }
        return masks[name].float()

    def clutter(self, n: int, draw: torch.Generator) -> Tensor:
        """Strokes and blobs in half of the images: (n, 1, 64, 64) in [0, 0.8]."""
        found = torch.zeros(n, SIZE, SIZE)
        for _ in range(3):
            at, turn = uniform(-1, 1, (2, n, 1, 1), draw), uniform(-3.2, 3.2, (n, 1, 1), draw)
            long, wide = uniform(0.03, 0.4, (n, 1, 1), draw), uniform(0.03, 0.09, (n, 1, 1), draw)
            x, y = self.x - at[0], self.y - at[1]
            along, across = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
            bend = uniform(-1.5, 1.5, (n, 1, 1), draw) * along.square()
            found = torch.maximum(found, ((along.abs() < long) & ((across - bend).abs() < wide)).float())
        shown = (torch.rand(n, 1, 1, generator=draw) < 0.5) * uniform(0.4, 0.8, (n, 1, 1), draw)
        return (found * shown)[:, None]

    @staticmethod
    def degrade(images: Tensor, scenes: list[Scene], draw: torch.Generator) -> Tensor:
        """Noise and blur where the style says so: (B, 3, 64, 64)."""
        n = len(scenes)
        blurred = F.avg_pool2d(F.avg_pool2d(images, 5, 1, 2, count_include_pad=False), 5, 1, 2, count_include_pad=False)
        noise = torch.rand(n, 1, SIZE, SIZE, generator=draw) - 0.5
        both = torch.rand(n, generator=draw)
        styles = [scene.style for scene in scenes]
        blur = torch.tensor(
            [style == "blurry" or (style == "noisy" and bool(b < 0.5)) for style, b in zip(styles, both)]
        )
        amount = torch.tensor([0.8 if style == "noisy" else 0.0 for style in styles]) * uniform(0.3, 1.0, (n,), draw)
        images = torch.where(blur[:, None, None, None], blurred, images)
        return images + amount[:, None, None, None] * noise
