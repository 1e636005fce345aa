"""The paper's tables: their datasets, their methods as settings of a run, and their published numbers."""

import enum
import json
import os
from collections.abc import Callable

from promptbias.experiments.layout import ZERO_SHOT, dataset_file
from promptbias.experiments.runs import Setting

BLOCKS = 12  # of ViT-B/16 and of the tiny CLIP
AVERAGE = "Average"
EMBEDDED = ("digits", "letters", "lower_letters", "cluttered_digits")  # not in the paper
PUBLISHED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "published_tables.json")

# Name of the configuration -> (name in the paper, number of classes), in the order of Tables 1 and 2.
DATASETS: dict[str, tuple[str, int]] = {
    "imagenet": ("ImageNet", 1000),
    "caltech101": ("Caltech101", 100),
    "dtd": ("DTD", 47),
    "eurosat": ("EuroSAT", 10),
    "fgvc_aircraft": ("FGVCAircraft", 100),
    "food101": ("Food101", 101),
    "oxford_flowers": ("OxfordFlowers", 102),
    "oxford_pets": ("OxfordPets", 37),
    "stanford_cars": ("StanfordCars", 196),
    "sun397": ("SUN397", 397),
    "ucf101": ("UCF101", 101),
    "digits": ("Digits", 10),
    "letters": ("Letters", 26),
    "lower_letters": ("LowerLetters", 26),
    "cluttered_digits": ("ClutteredDigits", 10),
}


class Absent(enum.Enum):
    """Why a table has no number somewhere; the value is what it shows there."""

    MISSING = ""  # not run, or not published
    FAILED = "–"  # the loss of a training was not finite

    def __str__(self) -> str:
        return self.value


def zero_shot(template: str = "") -> Setting:
    """Zero-shot CLIP with the dataset's own template, or with another."""
    options = ("TRAINER.ZEROSHOTCLIP.TEMPLATE", template) if template else ()
    return Setting(ZERO_SHOT, "{}", options, "{}_generic" if template else "")


def bias(template: str = "") -> Setting:
    """Bias tuning with the dataset's own template, or with another."""
    options = ("TRAINER.BIASTUNING.TEMPLATE", template) if template else ()
    return Setting("BiasTuning", "{}", options, "{}_generic" if template else "")


def prompts(number: int, depth: int = BLOCKS) -> Setting:
    """IVLP with `number` prompts in each branch and prompt depth `depth`. Up to four text prompts start from words."""
    known = {(1, 12): "prompt", (4, 1): "shallow", (4, 12): "deep", (10, 12): "optimal"}
    if (number, depth) in known:
        return Setting("IVLP", "{}_" + known[number, depth])
    if depth != BLOCKS:
        depths = ("TRAINER.IVLP.PROMPT_DEPTH_VISION", str(depth), "TRAINER.IVLP.PROMPT_DEPTH_TEXT", str(depth))
        return Setting("IVLP", "{}_deep", depths, f"{{}}_deep_depth{depth}")
    numbers = ("TRAINER.IVLP.N_CTX_VISION", str(number), "TRAINER.IVLP.N_CTX_TEXT", str(number))
    return Setting("IVLP", "{}_deep" if number <= 4 else "{}_optimal", numbers, f"{{}}_{number}+{number}prompts")


def generic_for(dataset: str) -> str:
    """GENERIC, or "" where that is the dataset's own template anyway: its runs are then those with its own."""
    from promptbias.model import templates
    from promptbias.utils.yaml_files import read_yaml

    name = read_yaml(dataset_file(dataset))["DATASET"]["NAME"]
    return templates.GENERIC if name in templates.TEMPLATES else ""


def on_any(setting: Setting) -> Callable[[str], Setting]:
    """The same setting for every dataset."""
    return lambda dataset: setting


# table -> column of the paper (in Table 3: row) -> its setting on a dataset
METHODS: dict[int, dict[str, Callable[[str], Setting]]] = {
    1: {
        "CLIP": on_any(zero_shot()),
        "CLIP-GENERIC": lambda dataset: zero_shot(generic_for(dataset)),
        "PROMPT": on_any(prompts(1)),
        "BIAS": on_any(bias()),
        "BIAS-GENERIC": lambda dataset: bias(generic_for(dataset)),
        "OPTIMAL": on_any(prompts(10)),
    },
    2: {
        "CLIP": on_any(zero_shot()),
        **{str(depth): on_any(prompts(4, depth)) for depth in range(1, BLOCKS + 1)},
    },
    3: {
        "CLIP": on_any(zero_shot()),
        **{str(both): on_any(prompts(both // 2)) for both in (2, 4, 6, 8, 20, 40, 100)},
    },
}


def published(number: int) -> Callable[[str, str], float | Absent]:
    """The published accuracies of a table in percent, by method and dataset (or AVERAGE)."""
    with open(PUBLISHED, encoding="utf-8") as file:
        rows = json.load(file)[f"table{number}"]["rows"]

    def look_up(method: str, dataset: str) -> float | Absent:
        name = DATASETS[dataset][0] if dataset in DATASETS else dataset
        if number == 1:
            row = rows.get(name.upper() if dataset == AVERAGE else name, {})
            method = {"BIAS-GENERIC": "BIAS"}.get(method, method)
        elif number == 2:
            row = rows.get(name, {})
            row = {**row, **row.get("layers", {})}
        else:
            row, method = rows[method], name
        value = row.get(method, Absent.MISSING)
        return Absent.FAILED if value is None else value  # JSON's null is a failed training

    return look_up
