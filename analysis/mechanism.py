"""Which mechanism does the work?

The paper has three hypotheses: prompts work through the attention among the inputs (i), as a bias (ii), or both are needed
(iii). Here the tuned model runs again with parts of what its inputs gather (see `decompose`), in one branch while the other
is whole, and in both; b_O always stays. The accuracy of each is a causal test.
"""
from typing import Callable, Dict, Iterable, NamedTuple, Tuple

import torch
from torch import Tensor

from trainers.tower import split_heads
from trainers.tuned_clip import TunedCLIP

from .decompose import PLAIN, Branch, ImageBranch, Parts, TakenApart, TextBranch


class Given(NamedTuple):
    """What a variant may take from elsewhere, for one block."""

    m: Tensor  # (H, 1, d), mean of u over the few-shot training images, or over the classes
    tuned: Tensor  # (B, H, n, n), attention among inputs in the untouched tuned model
    plain: Tensor  # (B, H, n, n), the same in the plain CLIP


# What an input gathers in each variant, from the parts of the variant's own run and what it is given.
VARIANTS: Dict[str, Callable[[Parts, Given], Tensor]] = {
    "full": lambda p, given: (1 - p.pi) * (p.a @ p.v) + p.u,
    "rescaled": lambda p, given: (1 - p.pi) * (p.a @ p.v),
    "bias only": lambda p, given: p.a @ p.v + p.u,
    "constant bias": lambda p, given: p.a @ p.v + p.sees_prompts * given.m,
    "none": lambda p, given: p.a @ p.v,
    "transplanted attention": lambda p, given: given.tuned @ p.v,
    "frozen attention": lambda p, given: given.plain @ p.v + p.u,
}

WHERE = ("image", "text", "both")


class Variant(TakenApart):
    """Runs one of `VARIANTS`. m (L, D) is the mean of u, heads side by side; the other two hold what `Given` says per block."""

    def __init__(self, name: str, prompts_at: slice, m: Tensor, tuned: list, plain: list) -> None:
        super().__init__(prompts_at)
        self.gathers = VARIANTS[name]
        self.m, self.tuned, self.plain = m, tuned, plain

    def update(self, i: int, parts: Parts) -> Tensor:
        m = split_heads(self.m[i][None], parts.u.shape[1])
        return self.gathers(parts, Given(m, self.tuned[i], self.plain[i]))


def variant_features(branch: Branch, batch: Tensor, m: Tensor) -> Tensor:
    """Unit vectors of a batch in all variants, (len(VARIANTS), B, joint width). m (L, D) as `PromptTerm.gathered`."""
    tuned, plain = branch.attention(batch).a, branch.attention(batch, PLAIN).a
    at = branch.tuner.prompts_at
    return torch.stack([branch.features(batch, Variant(name, at, m, tuned, plain)) for name in VARIANTS])


def accuracies(model: TunedCLIP, m: Dict[str, Tensor], batches: Iterable[Tuple[Tensor, Tensor]]) -> Tuple[Tensor, int]:
    """Share of (image, label) batches that each variant gets right, (len(WHERE), len(VARIANTS)), and their number.

    Args:
        m: `PromptTerm.gathered` of each branch by name, "image" and "text".
    """
    image_branch, text_branch = ImageBranch(model), TextBranch(model)
    texts = torch.cat([variant_features(text_branch, which, m["text"]) for which in text_branch.batches()], 1)
    right, count = torch.zeros(len(WHERE), len(VARIANTS)), 0
    for image, label in batches:
        images = variant_features(image_branch, image, m["image"])
        logits = (images @ texts[0].T, images[0] @ texts.transpose(1, 2), images @ texts.transpose(1, 2))
        right += torch.stack([(scores.argmax(-1) == label).sum(-1) for scores in logits]).cpu()
        count += len(label)
    return right / count, count
