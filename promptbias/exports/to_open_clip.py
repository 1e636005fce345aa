"""open_clip: safetensors under its names, which are OpenAI's, and the configuration of the architecture."""

import json
import os
from collections.abc import Iterator
from typing import Any

from .source import Source
from .target import Loaded, Target

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"  # as open_clip looks for them in a folder
HEAD = 64  # width of a head where the configuration does not name one


def configuration(source: Source) -> dict[str, Any]:
    """The architecture in open_clip's words."""
    clip, vision, text = source.stock, source.model.vision, source.model.text
    of_vision = {
        "image_size": source.image_input.size,
        "layers": len(vision.blocks),
        "width": vision.width,
        "patch_size": clip.visual.conv1.kernel_size[0],
    }
    if vision.width != HEAD * vision.heads:
        of_vision["head_width"] = vision.width // vision.heads
    of_text = {
        "context_length": source.model.context_length,
        "vocab_size": len(clip.token_embedding.weight),
        "width": text.width,
        "heads": text.heads,
        "layers": len(text.blocks),
    }
    activation = {"quick_gelu": True} if source.quick_gelu else {}
    joint = clip.text_projection.shape[1]
    return {"embed_dim": joint, **activation, "vision_cfg": of_vision, "text_cfg": of_text}


def known_name(source: Source) -> str:
    """open_clip's own name of the architecture; "" if it has none."""
    import open_clip

    wanted = configuration(source)
    return next((name for name in open_clip.list_models() if open_clip.get_model_config(name) == wanted), "")


class ToOpenCLIP(Target):
    library = "open_clip"
    needs = {"open_clip_torch": "open_clip"}

    def write(self, source: Source, folder: str) -> None:
        from safetensors.torch import save_file

        state = {name: tensor.contiguous() for name, tensor in source.folded.state_dict().items()}
        save_file(state, os.path.join(folder, WEIGHTS))
        p = source.image_input
        preprocessing = {"mean": list(p.mean), "std": list(p.std), "interpolation": p.interpolation}
        with open(os.path.join(folder, CONFIG), "w", encoding="utf-8") as file:
            json.dump({"model_cfg": configuration(source), "preprocess_cfg": preprocessing}, file, indent=2)

    def load(self, source: Source, folder: str) -> Iterator[Loaded]:
        """By the folder, and by open_clip's own name of the architecture where it has one."""
        import open_clip

        name, by_folder = known_name(source), f"local-dir:{folder}"
        ways = [(by_folder, None), *([(name, os.path.join(folder, WEIGHTS))] if name else [])]
        tokens = open_clip.get_tokenizer(by_folder)(source.texts)
        for name, weights in ways:
            model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=weights)
            model.eval()

            def logits(pixels, model=model):
                images, texts, scale = model(pixels, tokens)[:3]
                return scale * images @ texts.t()

            yield Loaded(logits, preprocess)

    def usage(self, source: Source) -> str:
        name = known_name(source)
        call = f'"{name}", pretrained="{WEIGHTS}"' if name else '"local-dir:."'
        return (
            "import open_clip\n\n"
            f"model, _, preprocess = open_clip.create_model_and_transforms({call})\n"
            f'tokenizer = open_clip.get_tokenizer("{name or "local-dir:."}")'
        )
