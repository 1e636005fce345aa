"""The two branches of a model as interpretation runs them: a batch of images or of classes in, unit vectors out."""

import contextlib
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from promptbias.model.adapter import Adapter
from promptbias.model.encoder import TextTower, Tower, VisionTower
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError

from .decomposition import DecomposedAttention, PartsHook

BASE = Adapter()  # nothing attached: the branch of the base CLIP
CLASSES_AT_ONCE = 256


class Branch:
    """One branch of a model. A batch is images (B, 3, S, S) in the vision branch, class indices (B,) in the other.

    Attributes:
        name: "vision" or "text".
        readout: name of the row that becomes the features.
        causal: whether attention is.
    """

    name: str
    readout: str
    causal: bool
    tower: Tower
    adapter: Adapter

    @property
    def has_prompts(self) -> bool:
        return self.adapter.prompt_count > 0

    @property
    def positions(self) -> int:
        """The largest number of inputs that a sample can have."""
        raise NotImplementedError

    def output_weight(self, i: int) -> Tensor:
        """W_Oᵀ of block i, (D, D) as `nn.Linear` stores it, with what the method makes of it; float32."""
        name, frozen = "attn.out_proj.weight", self.tower.blocks[i].attn.out_proj.weight
        return (self.adapter.parameter(name, i, frozen) if name in self.adapter.attaches_to else frozen).float()

    @torch.no_grad()
    def features(self, batch: Tensor, on_parts: PartsHook | None = None, adapter: Adapter | None = None) -> Tensor:
        """Unit vectors (B, joint width) of a batch.

        Args:
            on_parts: sees the decomposed attention of every block, and can replace what the inputs gather.
            adapter: another one than the branch's own, such as BASE.
        """
        adapter = self.adapter if adapter is None else adapter
        hooked: contextlib.AbstractContextManager = contextlib.nullcontext()
        if on_parts is not None:
            decomposed = DecomposedAttention(self.adapter.prompts_at, self.tower.heads, self.causal, on_parts)
            hooked = self.tower.hooked(decomposed.hooks())
        with hooked:
            return F.normalize(self.forward(batch, adapter).float(), dim=-1)

    def attention_among_inputs(self, batch: Tensor, adapter: Adapter | None = None) -> list[Tensor]:
        """a of every block, (B, H, n, n) each."""
        patterns: list[Tensor] = []
        self.features(batch, lambda i, parts: patterns.append(parts.a), adapter)
        return patterns

    def forward(self, batch: Tensor, adapter: Adapter) -> Tensor:
        """Features (B, joint width) of a batch, not normalised."""
        raise NotImplementedError

    def inputs(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterable[Tensor]:
        """Batches of this branch: the images of (image, label) batches, or all classes, whatever the images."""
        raise NotImplementedError

    def row_masks(self, batch: Tensor) -> Tensor:
        """Two sets of the n inputs that statistics are taken over, as weights (2, B, n) of 0 or 1.

        The first set is [cls] and patches, or all that stands after the prompts up to EOS; the second is the readout
        row alone.
        """
        raise NotImplementedError


class VisionBranch(Branch):
    name, readout, causal = "vision", "[cls]", False
    tower: VisionTower

    def __init__(self, model: TunedCLIP) -> None:
        self.tower, self.adapter = model.vision, model.adapters.vision

    @property
    def positions(self) -> int:
        return 1 + self.tower.patches

    def forward(self, batch: Tensor, adapter: Adapter) -> Tensor:
        return self.tower(batch, adapter)

    def inputs(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterable[Tensor]:
        return (image for image, _ in batches)

    def row_masks(self, batch: Tensor) -> Tensor:
        every = torch.ones(len(batch), 1 + self.tower.patches, device=batch.device)
        cls = torch.zeros_like(every)
        cls[:, 0] = 1
        return torch.stack([every, cls])


class TextBranch(Branch):
    name, readout, causal = "text", "EOS", True
    tower: TextTower

    def __init__(self, model: TunedCLIP) -> None:
        self.tower, self.adapter = model.text, model.adapters.text

    @property
    def positions(self) -> int:
        return self.tower.tokens.shape[1] - self.adapter.prompt_count

    def forward(self, batch: Tensor, adapter: Adapter) -> Tensor:
        return self.tower(adapter, batch)

    def inputs(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterable[Tensor]:
        return self.classes()

    def classes(self) -> Iterable[Tensor]:
        """All class indices."""
        return torch.arange(len(self.tower.tokens), device=self.tower.tokens.device).split(CLASSES_AT_ONCE)

    def row_masks(self, batch: Tensor) -> Tensor:
        prompts = self.adapter.prompts_at
        eos = self.tower.tokens[batch].argmax(-1)[:, None]  # (B, 1)
        row = torch.arange(int(eos.max()) + 1, device=eos.device)
        row = torch.cat([row[: prompts.start], row[prompts.stop :]])
        return torch.stack([(row >= prompts.stop) & (row <= eos), row == eos]).float()


def branches_of(model: TunedCLIP) -> tuple[VisionBranch, TextBranch]:
    """Both branches."""
    return VisionBranch(model), TextBranch(model)


def branches_with_prompts(model: TunedCLIP) -> list[Branch]:
    """The branches of a model that have prompts.

    Raises:
        UserError: neither has.
    """
    branches: list[Branch] = [branch for branch in branches_of(model) if branch.has_prompts]
    if not branches:
        raise UserError(
            f'"{model.label}" has no prompts, so there is nothing to decompose; give a run with prompts as --model-dir'
        )
    return branches
