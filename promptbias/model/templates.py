"""The sentence that stands around a class name, and its tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from promptbias.model.loading import import_clip
from promptbias.utils.errors import UserError

GENERIC = "a photo of a {}."

# The hand-written template of each dataset (by DATASET.NAME); every other dataset has GENERIC.
TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
    "Digits": "a photo of the digit {}.",
    "Letters": "a photo of the letter {}.",
    "LowerLetters": "a photo of the letter {}.",
    **dict.fromkeys(
        ("ClutteredDigits", "InvertedDigits", "TexturedDigits", "NoisyDigits", "RotatedDigits"),
        "a photo of the digit {}.",
    ),
}


def dataset_template(cfg) -> str:
    """The dataset's own template: DATASET.TEMPLATE where it is set, otherwise the hand-written one."""
    template = cfg.DATASET.get("TEMPLATE", "") or TEMPLATES.get(cfg.DATASET.NAME, GENERIC)
    return validate_template(template, "DATASET.TEMPLATE")


def validate_template(template: str, key: str) -> str:
    """The template itself.

    Raises:
        UserError: it has no place, or more than one, for the class name.
    """
    if template.count("{}") != 1:
        raise UserError(f'{key} is "{template}", but a template needs one {{}} where the class name goes')
    return template


def fill(template: str, classnames: Sequence[str]) -> list[str]:
    """One text per class; underscores in a class name are read as spaces, as is usual in this family."""
    return [template.replace("{}", name.replace("_", " ")) for name in classnames]


def tokenize(texts: Sequence[str], classnames: Sequence[str], context_length: int = 77) -> Tensor:
    """Token ids (K, context_length) of one text per class.

    Raises:
        UserError: a text is longer than CLIP's context; names its class.
    """
    clip, _ = import_clip()
    rows = []
    for text, name in zip(texts, classnames):
        try:
            rows.append(clip.tokenize(text, context_length=context_length)[0])
        except RuntimeError as error:
            raise UserError(
                f'the text of class "{name}" is longer than CLIP\'s {context_length} tokens; '
                "take fewer context tokens, a shorter template or a shorter class name"
            ) from error
    return torch.stack(rows).long()
