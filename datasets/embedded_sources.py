"""The datasets that are written here, without a network; see sources.py."""

from .fetches import Fetch, Source


def _written(dataset: str, folder: str, counts: tuple[int, int, int], page: str, licence: str) -> Source:
    layout = f"{folder}/images/{'<part>/' if 'letters' in folder else ''}<class>/*.png"
    return Source(dataset, folder, layout, page, licence, "none", counts, (Fetch("", f"{folder}/images"),))


_HANDWRITING = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits", "CC BY 4.0"
_GLYPHS = "https://pypi.org/project/Hershey-Fonts/", "public domain (the glyphs)"

EMBEDDED: dict[str, Source] = {
    "digits": _written("Digits", "digits", (898, 359, 540), *_HANDWRITING),
    "letters": _written("Letters", "letters", (936, 208, 520), *_GLYPHS),
    "lower_letters": _written("LowerLetters", "lower_letters", (936, 208, 520), *_GLYPHS),
    "cluttered_digits": _written("ClutteredDigits", "cluttered_digits", (898, 359, 540), *_HANDWRITING),
    "inverted_digits": _written("InvertedDigits", "inverted_digits", (540, 0, 540), *_HANDWRITING),
    "textured_digits": _written("TexturedDigits", "textured_digits", (540, 0, 540), *_HANDWRITING),
    "noisy_digits": _written("NoisyDigits", "noisy_digits", (540, 0, 540), *_HANDWRITING),
    "rotated_digits": _written("RotatedDigits", "rotated_digits", (540, 0, 540), *_HANDWRITING),
}
