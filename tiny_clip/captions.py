"""Captions for pre-training: many templates, some with filler words in front so that later positions are trained."""

import random

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
TEMPLATES = (
    "a photo of a {name}.",
    "a photo of a {name}.",
    "a photo of the {kind} {name}.",
    "a photo of the {kind} {name}.",
    "a photo of the {name}.",
    "a photo of {name}.",
    "a photo of one {kind} {name}.",
    "a picture of a {name}.",
    "a picture of the {kind} {name}.",
    "a drawing of the {kind} {name}.",
    "a handwritten {name}.",
    "a handwritten {kind} {name}.",
    "a blurry photo of a {name}.",
    "an image of the {kind} {name}, white on black.",
    "the {kind} {name}.",
    "this is a {name}.",
    "{kind} {name}.",
    "{name}.",
    "{name}",
)
PLACEHOLDER = "X"  # a method replaces it by its prompts
# fmt: off
FILLERS = [
    "a", "the", "of", "photo", "picture", "image", "drawing", "scan", "digit", "number", "letter", "character", "sign",
    "symbol", "handwritten", "printed", "written", "blurry", "small", "large", "white", "black", "light", "dark",
    "bright", "old", "new", "clean", "on", "in", "with", "and", "this", "that", "is", "it", "one", "some", "type",
    "centered", "texture",
]
# fmt: on
MAX_FILLERS = 32


def captions(choose: random.Random, long: float = 0.0) -> list[str]:
    """One caption per class, digits then letters; with probability `long` they all get filler words in front."""
    classes = [("digit" if choose.random() < 0.8 else "number", d) for d in DIGITS]
    classes += [("letter" if choose.random() < 0.8 else "character", c) for c in LETTERS]
    lengthen = choose.random() < long
    texts = []
    for kind, name in classes:
        text = choose.choice(TEMPLATES).format(kind=kind, name=name)
        if lengthen:
            n = choose.randint(0, MAX_FILLERS)
            fillers = [PLACEHOLDER] * n if choose.random() < 0.5 else choose.choices(FILLERS, k=n)
            text = " ".join([*fillers, text])
        texts.append(text)
    return texts


def vocabulary() -> list[str]:
    """Texts that contain every word of every possible caption."""
    templates = [t.format(kind=kind, name="") for t in TEMPLATES for kind in ("digit", "number", "letter", "character")]
    return templates + DIGITS + LETTERS + FILLERS + [PLACEHOLDER, "."]
