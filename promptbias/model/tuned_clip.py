"""A frozen CLIP for one list of classes, with what a method learns attached to its two towers."""

import contextlib
from typing import ContextManager
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from promptbias.utils.errors import UserError
from promptbias.model.prepacked_linear import state_of
from promptbias.model.templates import fill, tokenize
from promptbias.model.encoder import TextTower, Tower, Tuner, VisionTower

# What the frozen weights and the activations are kept in. "amp" keeps float32 and lets autocast choose.
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "amp": torch.float32,
}


def has_native_bf16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, and not by way of float32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        words = set(file.read().split())
        return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
    return False


def resolve_precision(name: str, device: str) -> str:
    """The precision that PREC means on "cpu" or "cuda": `auto` is the fastest that the device does well.

    Raises:
        UserError: no such precision.
    """
    if name == "auto":
        return "bf16" if has_native_bf16(device) else ("amp" if device == "cuda" else "fp32")
    if name not in DTYPES:
        raise UserError(f'PREC is "{name}", but has to be one of auto, {", ".join(DTYPES)}')
    return name


def device_of(cfg) -> str:
    """Where Dassl trains: "cuda" or "cpu"."""
    return "cuda" if cfg.USE_CUDA and torch.cuda.is_available() else "cpu"


def check_depth(key: str, depth: int, tower: Tower, at_least: int = 0) -> None:
    """Raises:
    UserError: `depth` is not between `at_least` and the number of the tower's blocks.
    """
    blocks = len(tower.blocks)
    if not at_least <= depth <= blocks:
        raise UserError(f"{key} is {depth}, but has to be between {at_least} and {blocks}, the number of blocks")


class Learner(nn.Module):
    """All that is learned, and all that a checkpoint holds: one `Tuner` for each branch."""

    def __init__(self, vision: Tuner, text: Tuner) -> None:
        super().__init__()
        self.vision, self.text = vision, text


class TunedCLIP(nn.Module):
    """logits = exp(logit_scale) cos(f, g_k), with f and g_k from the tuned towers (eqs. 9 and 11 of the paper).

    The given CLIP is frozen and converted, in place, to the dtype of `precision`; what is learned stays float32.

    Args:
        cfg: a Dassl config; INPUT.SIZE and USE_CUDA are read here.
        classnames: K names.
        clip_model: a stock CLIP with a ViT.
        template: text with one {} for the class name.
        precision: fp32, fp16, bf16, amp or auto.

    Raises:
        UserError: CLIP is not a ViT of OpenAI's, or the image size does not fit it, or a text is too long, or no such precision.
    """

    learner: Learner

    def __init__(self, cfg, classnames: Sequence[str], clip_model: nn.Module, template: str, precision: str) -> None:
        super().__init__()
        if not hasattr(clip_model.visual, "transformer"):
            raise UserError("this CLIP has a ResNet, but prompts and block biases need a ViT, such as ViT-B/16")
        size = clip_model.visual.input_resolution
        if tuple(cfg.INPUT.SIZE) != (size, size):
            raise UserError(f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}, but this CLIP sees images of ({size}, {size})")
        self.precision = resolve_precision(precision, device_of(cfg))
        self.register_buffer("logit_scale", clip_model.logit_scale.detach().float().exp(), persistent=False)
        clip_model.to(DTYPES[self.precision]).requires_grad_(False)
        self.template = template
        self.context_length = clip_model.positional_embedding.shape[0]
        self.vision = VisionTower(clip_model)
        self.text = TextTower(clip_model, self.tokens_of(fill(template, classnames), classnames))
        self._encoded: tuple[object, Tensor | None] = (None, None)

    def tokens_of(self, texts: Sequence[str], classnames: Sequence[str]) -> Tensor:
        """Token ids (K, N)."""
        return tokenize(texts, classnames, self.context_length)

    def casting(self) -> ContextManager:
        """Autocast where the precision is "amp"."""
        device = self.logit_scale.device.type
        dtype = torch.float16 if device == "cuda" else torch.bfloat16
        return torch.autocast(device, dtype=dtype, enabled=self.precision == "amp")

    def image_features(self, image: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> unit vectors (B, d), float32."""
        with self.casting():
            features = self.vision(image, self.learner.vision)
        return F.normalize(features.float(), dim=-1)

    def text_features(self, which: Tensor | None = None) -> Tensor:
        """Unit vectors of all classes (K, d), or of the classes `which`, float32.

        Without gradients they are encoded once and kept until something that they depend on changes.
        """
        if torch.is_grad_enabled() or self.text.tap is not None:
            return self._encode_text(which)
        state = [state_of(p) for part in (self.learner.text, self.text.clip) for p in part.parameters()]
        if self._encoded[0] != state:
            self._encoded = (state, self._encode_text())
        features = self._encoded[1]
        return features if which is None else features[which]

    def _encode_text(self, which: Tensor | None = None) -> Tensor:
        with self.casting():
            features = self.text(self.learner.text, which)
        return F.normalize(features.float(), dim=-1)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) -> logits (B, K); with the learner in train mode, and labels (B,), the loss."""
        logits = self.logit_scale * self.image_features(image) @ self.text_features().t()
        return F.cross_entropy(logits, label) if self.learner.training else logits
