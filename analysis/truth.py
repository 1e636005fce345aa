"""Do the maps tell the truth?

Patches are removed in the order of a map, the most relevant first or the least relevant first, and the accuracy is
followed. A truthful map makes the first curve fall early and the second one late; an order by chance lies between.
Removed means: the patch's token is dropped from the sequence, after the positional embedding.
"""
import copy
from typing import Dict, Sequence, Tuple

import torch
from torch import Tensor

from trainers.tower import Tap, Tuner
from trainers.tuned_clip import TunedCLIP

from .decompose import ImageBranch

FRACTIONS = tuple(step / 10 for step in range(11))  # of the patches removed


class Without(Tuner):
    """A tuner on image tokens of which only `rows` (B, n) are left; row 0 is [cls]. Prompts then stand further ahead."""

    def __init__(self, tuner: Tuner, rows: Tensor, patches: int) -> None:
        super().__init__()
        gone = 1 + patches - rows.shape[1]
        at = tuner.prompts_at
        self.tuner, self.rows = copy.copy(tuner), rows
        if at.stop > at.start:
            self.tuner.prompts_at = slice(at.start - gone, at.stop - gone)

    def start(self, x: Tensor) -> Tensor:
        return self.tuner.start(x.gather(1, self.rows[..., None].expand(-1, -1, x.shape[-1])))

    def before(self, i: int, x: Tensor) -> Tensor:
        return self.tuner.before(i, x)

    def after(self, i: int, x: Tensor) -> Tensor:
        return self.tuner.after(i, x)

    def read_after(self, i: int) -> slice:
        return self.tuner.read_after(i)


class LastAttention(Tap):
    """Keeps what [cls] gives to every token in the last block it sees, mean over heads: `attention` (B, N)."""

    def attend(self, i, q, k, v, mask):
        self.attention = self.weights(q[..., :1, :], k, mask).mean(1)[:, 0]
        return super().attend(i, q, k, v, mask)


def raw_attention(branch: ImageBranch, image: Tensor) -> Tensor:
    """Head-mean attention of [cls] to the patches in the last block, (B, M)."""
    tap = LastAttention()
    branch.features(image, tap)
    return tap.attention[:, 1:1 + branch.tower.patches]


def orders(maps: Dict[str, Tensor], chance: torch.Generator) -> Dict[Tuple[str, str], Tensor]:
    """Orders of removal (B, M) for maps (B, M): (name, "most") and (name, "least") relevant first, and one by chance."""
    ordered = {}
    for name, values in maps.items():
        ordered[name, "most"] = values.argsort(1, descending=True, stable=True)
        ordered[name, "least"] = values.argsort(1, stable=True)
    # Drawn image by image, so that it does not depend on the batch size.
    drawn = [torch.randperm(values.shape[1], generator=chance) for _ in values]
    ordered["chance", ""] = torch.stack(drawn).to(values.device)
    return ordered


@torch.no_grad()
def hits_without(model: TunedCLIP, image: Tensor, label: Tensor, order: Tensor, texts: Tensor) -> Tensor:
    """Number of images that are right after removing each of FRACTIONS of their patches in `order` (B, M); (F,)."""
    branch, patches = ImageBranch(model), order.shape[1]
    hits = []
    for fraction in FRACTIONS:
        stay = 1 + order[:, round(fraction * patches):]
        rows = torch.cat([torch.zeros_like(order[:, :1]), stay], 1)
        features = branch.features(image, tuner=Without(branch.tuner, rows, patches))
        hits.append(((features @ texts.T).argmax(-1) == label).sum())
    return torch.stack(hits).cpu()


def area(curve: Sequence[float]) -> float:
    """Area under an accuracy curve over FRACTIONS, by the trapezoid rule: the mean accuracy along the removal."""
    steps = [b - a for a, b in zip(FRACTIONS, FRACTIONS[1:])]
    return sum(step * (a + b) / 2 for step, a, b in zip(steps, curve, curve[1:]))
