"""A stock CLIP by the name of its weights."""

import torch.nn as nn

from .backbones import find
from .backbones.build import build
from .clip_module import import_clip

__all__ = ["import_clip", "load_clip"]


def load_clip(name: str) -> nn.Module:
    """A stock CLIP with a ViT, in float32 on the CPU, in eval mode; it computes with exactly the weights of its source.

    Args:
        name: what `--backbone` takes (docs/backbones.md): "tiny", one of OpenAI's names such as "ViT-B/16", a weights
            file, a Hugging Face folder or "hf:<hub name>", or "open_clip:<model>/<tag>".

    Raises:
        UserError: no such name, weights that cannot be had or are damaged, another architecture than OpenAI's ViT, a
            file that does not say what is needed, or a `clip` module that cannot build the model.
    """
    return build(find(name))
