"""The computations that a program of torch.export or ONNX holds."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError


class Classifier(nn.Module):
    """Images (B, 3, S, S) -> logits (B, K). The classes are encoded once, here."""

    classes: Tensor  # (joint width, K)

    def __init__(self, model: TunedCLIP) -> None:
        super().__init__()
        self.tower, self.adapter = model.vision, model.adapters.vision
        with torch.no_grad():
            self.register_buffer("classes", (model.logit_scale * model.text_features()).t().contiguous())

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.tower(image, self.adapter), dim=-1) @ self.classes


class ImageEncoder(nn.Module):
    """Images (B, 3, S, S) -> unit vectors (B, joint width)."""

    def __init__(self, model: TunedCLIP) -> None:
        super().__init__()
        self.tower, self.adapter = model.vision, model.adapters.vision

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.tower(image, self.adapter), dim=-1)


class TextEncoder(nn.Module):
    """Token ids (K, context length), int64, of any texts -> unit vectors (K, joint width)."""

    def __init__(self, model: TunedCLIP) -> None:
        super().__init__()
        self.tower, self.adapter = model.text, model.adapters.text

    def forward(self, tokens: Tensor) -> Tensor:
        with self.tower.hooked({}):  # attention written out
            return F.normalize(self.tower.encode_padded(self.adapter, tokens, tokens.shape[1]), dim=-1)


def program(module: nn.Module, example: Tensor) -> Any:
    """What `torch.export` makes of a module of one input with a dynamic first axis.

    Args:
        example: at least two rows, since torch takes one for a constant.

    Raises:
        UserError: this torch has no torch.export.
    """
    if not hasattr(torch, "export"):
        raise UserError(f"torch {torch.__version__} has no torch.export; take a newer torch")
    with torch.no_grad():
        return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
