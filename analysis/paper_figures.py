"""Which figure of the paper each of ours is, by what it shows and by the dataset."""

from typing import NamedTuple

# Figures 2, 3 and 8 to 23 show one quantity on nine datasets: text with the even number, vision with the odd one.
OF_TEXT = {
    "OxfordPets": 2,
    "ImageNet": 8,
    "FGVCAircraft": 10,
    "OxfordFlowers": 12,
    "StanfordCars": 14,
    "UCF101": 16,
    "Food101": 18,
    "SUN397": 20,
    "Caltech101": 22,
}


class PaperFigure(NamedTuple):
    """A figure of the paper.

    Attributes:
        number: as there.
        dataset: that it is of, or "" where the paper does not say.
    """

    number: str
    dataset: str


FIGURES = {
    "eos-attention": PaperFigure("4", "ImageNet"),
    "distance": PaperFigure("5", ""),
    "entropy": PaperFigure("5", ""),
    "entropy-cls": PaperFigure("7", ""),
    "heatmap": PaperFigure("6", "ImageNet"),
}


def figure_of_paper(stem: str, dataset: str) -> str:
    """What a figure file is in the paper, or "" if it is not there.

    Args:
        stem: name of the file, without its extension.
        dataset: that it was made from.

    >>> figure_of_paper("contribution-vision", "Food101"), figure_of_paper("contribution-text", "Digits")
    ('figure 19', 'like figures 2, 8, 10, 12, 14, 16, 18, 20 and 22')
    >>> figure_of_paper("heatmap", "Digits"), figure_of_paper("distance", "Digits"), figure_of_paper("dose", "Digits")
    ('like figure 6', 'like figure 5', '')
    """
    if stem in ("contribution-text", "contribution-vision"):
        numbers = {name: number + (stem == "contribution-vision") for name, number in OF_TEXT.items()}
        if dataset in numbers:
            return f"figure {numbers[dataset]}"
        *most, last = numbers.values()
        return f"like figures {', '.join(map(str, most))} and {last}"
    if stem not in FIGURES:
        return ""
    found = FIGURES[stem]
    return f"figure {found.number}" if dataset == found.dataset else f"like figure {found.number}"
