"""The model card of an export, and the same for programs."""

import importlib.metadata
import os
from typing import Any

import msgspec

import promptbias
from promptbias.model.backbones import EMBEDDED
from promptbias.model.loading import import_clip

from .source import ImageInput, Run, Source
from .target import Target
from .verify import Check

CARD, FACTS = "README.md", "export.json"
LISTED = 20  # class names that the card lists
OPENAI = (
    "OpenAI's CLIP: its code is MIT, and its [model card](https://github.com/openai/CLIP/blob/main/model-card.md) "
    "puts deployed use out of scope"
)


class Facts(msgspec.Struct):
    """What `export.json` holds: what logits and inputs mean."""

    classnames: list[str]
    texts: list[str]
    logit_scale: float  # logits are this times cosines
    image: ImageInput
    run: Run | None


def licence(backbone: str) -> str:
    """What is known of the licence of the weights."""
    clip, _ = import_clip()
    if backbone in EMBEDDED:  # our own
        return "MIT, as promptbias"
    return OPENAI if backbone in clip._MODELS else "see the source of the backbone"


def rows(source: Source, check: Check, target: Target) -> list[tuple[str, str]]:
    """What the card says, line by line."""
    model, run, p = source.model, source.run, source.image_input
    known = [] if run is None else [("backbone", run.backbone), ("dataset", run.dataset)]
    if run is not None:
        shots = str(run.shots) if run.shots > 0 else "all images"
        known += [("shots", shots), ("seed", str(run.seed)), ("accuracy", f"{run.accuracy:.1f} % on the test set")]
    classes = ", ".join(model.classnames) if len(model.classnames) <= LISTED else f"{len(model.classnames)}"
    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (p.mean, p.std))
    image = (
        f"RGB, shorter side to {p.size} ({p.interpolation}), centre crop of {p.size}x{p.size}, scaled to [0, 1], "
        f"minus {mean}, divided by {std}"
    )
    names = ["torch", *target.needs]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    checked = f"loaded again and compared with the tuned model: {check.pixels} ({versions})"
    return [
        ("method", f"{run.trainer}: {model.label}" if run else model.label),
        *known,
        ("template", f'"{model.template}"'),
        ("classes", classes),
        ("images", image),
        ("checked", checked + (f"; {target.rounds}" if target.rounds else "")),
        ("licence of the weights", licence(source.backbone)),
    ]


def write_card(source: Source, check: Check, target: Target, folder: str) -> str:
    """Write CARD and FACTS into the folder of an export; returns the card."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("promptbias.exports", ""),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    run, model = source.run, source.model
    title = (
        f"CLIP ({run.backbone}), tuned with {run.trainer} on {run.dataset}" if run else f"CLIP, tuned: {model.label}"
    )
    text = environment.get_template("card.md.j2").render(
        title=title,
        version=promptbias.__version__,
        library=target.library,
        usage=target.usage(source),
        facts=rows(source, check, target),
        preprocessed=check.preprocessed,
        facts_file=FACTS,
    )
    with open(os.path.join(folder, CARD), "w", encoding="utf-8") as file:
        file.write(text)
    facts: Any = Facts(model.classnames, source.texts, float(model.logit_scale), source.image_input, run)
    with open(os.path.join(folder, FACTS), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")
    return text
