"""`promptbias methods`: the tuning methods, as they describe themselves."""

import argparse
import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

VIT_B16 = "ViT-B/16"
HEADERS = [
    "method",
    "trainable parameters",
    "extra cost in inference",
    "folds",
    "attaches to",
    "options (TRAINER.<node>.)",
]


def rows(backbone: str) -> list[list[str]]:
    """The table's rows, by HEADERS."""
    from promptbias.api import load_clip, methods
    from promptbias.model.method import MethodConfig
    from promptbias.model.tuned_clip import TunedCLIP

    clip_model = clip_without_weights() if backbone == VIT_B16 else load_clip(backbone)
    everywhere = {"TEMPLATE": "", **MethodConfig.options()}  # what every method has is shown where its default differs
    found = []
    for name, config in methods().items():
        with contextlib.redirect_stdout(io.StringIO()):
            model = TunedCLIP(clip_model, ["cat", "dog"], config(), precision="fp32")
        options = {key: value for key, value in config.options().items() if everywhere.get(key, value) != value}
        options.update({key: value for key, value in config.options().items() if key not in everywhere})
        found.append(
            [
                name,
                f"{model.adapters.trainable_parameters:,}",
                inference_cost(model),
                "yes" if config.folds else "no",
                attachments(model),
                " ".join(f"{key}={value!r}" for key, value in options.items()) or "-",
            ]
        )
    return found


def inference_cost(model: Any) -> str:
    """What an image costs more than with plain CLIP. Texts are encoded once for a list of classes."""
    vision = model.adapters.vision
    if model.method.folds or not vision.attaches_to:
        return "none"
    if vision.prompt_count:
        return f"{vision.prompt_count} more tokens than {model.vision.patches + 1} in {vision.prompt_depth} blocks"
    return "an adapter in the forward pass"


def attachments(model: Any) -> str:
    """Where the method attaches, by branch where they differ."""
    branches = {
        branch: ", ".join(dict.fromkeys(re.sub(r"^ln_\w+", "ln_*", name) for name in adapter.attaches_to))
        for branch, adapter in (("vision", model.adapters.vision), ("text", model.adapters.text))
    }
    if branches["vision"] == branches["text"]:
        return branches["text"] or "-"
    return "; ".join(f"{branch}: {names}" for branch, names in branches.items() if names)


def clip_without_weights() -> Any:
    """A CLIP of ViT-B/16's shapes, so that nothing is downloaded to count parameters; all weights are 0."""
    import torch

    from promptbias.model.backbones.backbone import Backbone
    from promptbias.model.backbones.build import build

    vision, text, joint = 768, 512, 512
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "visual.conv1.weight": (vision, 3, 16, 16),
        "visual.class_embedding": (vision,),
        "visual.positional_embedding": (1 + 14 * 14, vision),
        "visual.proj": (vision, joint),
        "token_embedding.weight": (49408, text),
        "positional_embedding": (77, text),
        "text_projection": (text, joint),
    }
    layers: dict[str, tuple[int, ...]] = {"visual.ln_pre": (vision,), "visual.ln_post": (vision,), "ln_final": (text,)}
    for branch, width in (("visual.", vision), ("", text)):
        for i in range(12):
            block = f"{branch}transformer.resblocks.{i}."
            shapes |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
            layers |= {f"{block}ln_1": (width,), f"{block}ln_2": (width,), f"{block}attn.out_proj": (width, width)}
            layers |= {f"{block}mlp.c_fc": (4 * width, width), f"{block}mlp.c_proj": (width, 4 * width)}
    for layer, shape in layers.items():
        shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    return build(Backbone(VIT_B16, lambda: state))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="promptbias methods", description=__doc__)
    parser.add_argument(
        "--backbone", default=VIT_B16, help=f"CLIP to count the parameters on (default: {VIT_B16}, without its weights)"
    )
    args = parser.parse_args(argv)
    from tabulate import tabulate

    print(tabulate(rows(args.backbone), HEADERS, maxcolwidths=[None, None, 24, None, 36, 40]))
