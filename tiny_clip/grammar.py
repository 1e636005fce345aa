"""Captions of rendered scenes: a long-tailed grammar of objects, attributes, templates and sentences that say nothing.

Words and templates are drawn with probabilities like 1 / rank, so that few are frequent and many are rare. A caption
has 3 to 40 tokens and says a random part of what is in the image.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .captions import DIGITS, FILLERS, LETTERS, PLACEHOLDER, vocabulary

NAMES = (*DIGITS, *LETTERS)
SHAPES = ("circle", "square", "ring", "triangle", "cross", "bar")
COLOURS = ("white", "red", "green", "blue", "yellow", "grey", "black")
BACKGROUNDS = ("plain", "striped", "checked", "cloudy", "shaded")
SIZES = ("small", "medium", "large")
PLACES = ("center", "left", "right", "top", "bottom")
STYLES = ("clean", "noisy", "blurry", "tilted")
# Frequent first.
OBJECTS = ("{name}", "{kind} {name}", "the {kind} {name}", "a {name}", "one {kind} {name}", "a handwritten {name}")
SCENES = (
    "a photo of {object}.",
    "{object}.",
    "{object} on a {background} background.",
    "a {style} photo of {object}.",
    "a photo of {object} in {colour}.",
    "a {size} {colour} {kind} {name}.",
    "a {colour} {name} on a {background} background.",
    "a photo of {object} at the {place}.",
    "{object}, {colour}, {size}, {style}.",
    "a {style} picture of a {size} {colour} {kind} {name} at the {place} on a {background} background.",
    "on a {background} background there is {object}, written in {colour}.",
    "at the {place} of the {style} image someone wrote {object} in {colour} ink.",
)
BESIDE = (" next to {other}", " and {other}", " with {other} beside it", ", not far from {other}")
NOTES = (
    "nobody knows who wrote it.",
    "it is old.",
    "this is a scan from a book of forms.",
    "the photo was taken in a hurry, without much light.",
    "i found it on the street and kept it.",
)


@dataclass(frozen=True)
class Scene:
    """What is in an image: everything that a caption may say.

    Attributes:
        name, kind: of the glyph: "seven", "digit".
        other: what stands beside it: "a red circle", or "".
    """

    name: str
    kind: str
    colour: str
    background: str
    size: str
    place: str
    style: str
    other: str = ""


def zipf(choose: random.Random, options: Sequence[str]) -> str:
    """One of the options, the n-th with a probability like 1 / n."""
    return choose.choices(options, [1 / n for n in range(1, 1 + len(options))])[0]


def caption(scene: Scene, choose: random.Random) -> str:
    """A caption of a scene."""
    words = vars(scene)
    words = {**words, "object": zipf(choose, OBJECTS).format(**words)}
    text = zipf(choose, SCENES).format(**words)
    if scene.other and choose.random() < 0.7:
        text = text.removesuffix(".") + zipf(choose, BESIDE).format(other=scene.other) + "."
    if choose.random() < 0.2:
        note = zipf(choose, NOTES)
        text = f"{note} {text}" if choose.random() < 0.5 else f"{text} {note}"
    elif choose.random() < 0.1:
        text = " ".join([*choose.choices([*FILLERS, PLACEHOLDER], k=choose.randint(1, 16)), text])
    return text


def words() -> list[str]:
    """Texts that contain every word of every possible caption."""
    lists = (*SHAPES, *COLOURS, *BACKGROUNDS, *SIZES, *PLACES, *STYLES)
    return [*vocabulary(), *OBJECTS, *SCENES, *BESIDE, *NOTES, *lists, ","]
