"""OpenAI's `clip`: a plain state dict in float32, which `clip.load` and our own --backbone take."""

import copy
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from promptbias.model.loading import import_clip
from promptbias.model.templates import tokenize
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.zeroshot import ZeroshotConfig
from promptbias.utils.errors import UserError

from .source import Source
from .target import Loaded, Target

WEIGHTS = "model.pt"
HEAD = 64  # width of a head that `clip.load` assumes


class ToClip(Target):
    library = "clip.load"
    rounds = "clip.load rounds weights to float16; as `--backbone` the file is the tuned model itself"

    def write(self, source: Source, folder: str) -> None:
        towers = source.model.vision, source.model.text
        if not source.quick_gelu or any(tower.width != HEAD * tower.heads for tower in towers):
            raise UserError(f"clip.load knows QuickGELU and heads of width {HEAD} only; take --to open_clip or hf")
        # `clip.load` drops these three, and whoever else reads the file sees that it is of OpenAI's architecture.
        sizes = {
            "input_resolution": source.image_input.size,
            "context_length": source.model.context_length,
            "vocab_size": len(source.stock.token_embedding.weight),
        }
        state = {**source.folded.state_dict(), **{name: torch.tensor(size) for name, size in sizes.items()}}
        torch.save(state, os.path.join(folder, WEIGHTS))

    def load(self, source: Source, folder: str) -> Iterator[Loaded]:
        clip, _ = import_clip()
        model, preprocess = clip.load(os.path.join(folder, WEIGHTS), device="cpu")
        tokens = tokenize(source.texts, source.model.classnames, source.model.context_length)
        yield Loaded(lambda pixels: model(pixels, tokens)[0], preprocess)

    def reference(self, source: Source) -> Tensor:
        """Of the tuned model with its weights rounded as `clip.load` rounds them."""
        _, module = import_clip()
        rounded = copy.deepcopy(source.folded)
        module.convert_weights(rounded)
        plain = TunedCLIP(rounded, source.model.classnames, ZeroshotConfig(), source.model.template, "fp32", "cpu")
        with torch.no_grad():
            return plain.eval().logits(source.pixels)

    def usage(self, source: Source) -> str:
        return f'import clip\n\nmodel, preprocess = clip.load("{WEIGHTS}", device="cpu")'
