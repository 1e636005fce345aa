"""Ablations and activation patching of what prompts do: which mechanism carries the gain?

Three hypotheses: prompts act through the attention among the inputs (i), as a bias (ii), or both are needed (iii).
Each variant runs the tuned model with parts of what its inputs gather (see `decomposition`), in one branch while the
other is intact, or in both; b_O always stays. The accuracy of each is a causal test.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from promptbias.model.encoder import split_heads
from promptbias.model.tuned_clip import TunedCLIP

from .accuracy import LabelledImages
from .branches import BASE, Branch, branches_of
from .decomposition import AttentionParts, PartsHook


class Interventions(NamedTuple):
    """What a variant may take from elsewhere, for one block."""

    m: Tensor  # (H, 1, d), mean of u over the inputs of the few-shot training images, or over those of the classes
    tuned: Tensor  # (B, H, n, n), attention among inputs in the intact tuned model
    base: Tensor  # (B, H, n, n), the same in the base model


class Variant(NamedTuple):
    """A run of the tuned model with parts of what the inputs gather.

    Attributes:
        formula: what is left, for people.
        gathered: what an input gathers, from the parts of the variant's own pass and the interventions, (B, H, n, d).
    """

    formula: str
    gathered: Callable[[AttentionParts, Interventions], Tensor]


FULL = "full"
VARIANTS = {
    FULL: Variant("(1−π) a v + u", lambda p, given: (1 - p.prompt_mass) * (p.a @ p.v) + p.u),
    "no prompt values": Variant("(1−π) a v", lambda p, given: (1 - p.prompt_mass) * (p.a @ p.v)),
    "no rescaling": Variant("a v + u", lambda p, given: p.a @ p.v + p.u),
    "mean ablation": Variant("a v + m", lambda p, given: p.a @ p.v + p.sees_prompts * given.m),
    "zero ablation": Variant("a v", lambda p, given: p.a @ p.v),
    "attention patched from the tuned model": Variant("a v", lambda p, given: given.tuned @ p.v),
    "attention patched from the base model": Variant("a v + u", lambda p, given: given.base @ p.v + p.u),
}
ABLATED = ("vision", "text", "both")  # the branches that a variant is run in


def variant_hook(variant: str, m: Tensor, tuned: list[Tensor], base: list[Tensor]) -> PartsHook:
    """One of VARIANTS as a hook on decomposed attention.

    Args:
        m: (L, D), heads side by side (`PromptTerm.mean_u`).
        tuned, base: attention among inputs of every block, for the batch at hand.
    """

    def on_parts(i: int, parts: AttentionParts) -> Tensor:
        m_i = split_heads(m[i][None], parts.u.shape[1])
        return VARIANTS[variant].gathered(parts, Interventions(m_i, tuned[i], base[i]))

    return on_parts


def variant_features(branch: Branch, batch: Tensor, m: Tensor) -> Tensor:
    """Unit vectors of a batch in all variants, (len(VARIANTS), B, joint width). m (L, D) as `PromptTerm.mean_u`."""
    if not branch.has_prompts:  # nothing to ablate
        return branch.features(batch).expand(len(VARIANTS), -1, -1)
    tuned, base = branch.attention_among_inputs(batch), branch.attention_among_inputs(batch, BASE)
    return torch.stack([branch.features(batch, variant_hook(variant, m, tuned, base)) for variant in VARIANTS])


def variant_outcomes(model: TunedCLIP, m: dict[str, Tensor], batches: LabelledImages) -> Tensor:
    """Whether each variant gets each of I images right: (len(ABLATED), len(VARIANTS), I), bool.

    Args:
        m: `PromptTerm.mean_u` of each branch by name.
    """
    vision, text = branches_of(model)
    texts = torch.cat([variant_features(text, which, m["text"]) for which in text.classes()], 1)
    full, outcomes = list(VARIANTS).index(FULL), []
    for image, label in batches:
        images = variant_features(vision, image, m["vision"])
        logits = (images @ texts[full].T, images[full] @ texts.transpose(1, 2), images @ texts.transpose(1, 2))
        outcomes.append(torch.stack([scores.argmax(-1) == label for scores in logits]).cpu())
    return torch.cat(outcomes, -1)
