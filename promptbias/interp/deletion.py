"""Images without some of their patches: their features, and whether they are still classified rightly.

A deleted patch's token is dropped from the sequence, after the positional embedding.

Shapes: B images, M patches, C sequences of n tokens, K classes.
"""

import copy
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from promptbias.model.adapter import Adapter
from promptbias.model.encoder import Tower, VisionTower
from promptbias.model.precision import has_native_bf16
from promptbias.model.tuned_clip import TunedCLIP

from .accuracy import margins

DOUBT = 2**-8  # of a cosine: a unit in the last place of bfloat16
TOKENS_AT_ONCE = 8192  # enough for fast products, and little memory
NUMBERS_AT_ONCE = 2**22  # so many tokens times their width cost little memory too
CHECKED = 50  # one in so many drafts is checked whatever its margin


class DropPatches(Adapter):
    """An adapter on vision tokens of which only `rows` (C, n) are left, [cls] first; prompts follow them directly.

    Args:
        rows: of each of C sequences.
        patches: M.
        images: (C,), the image of the batch that each sequence is of; default: every image once.
    """

    def __init__(self, adapter: Adapter, rows: Tensor, patches: int, images: Tensor | None = None) -> None:
        super().__init__()
        self.adapter, self.rows = copy.copy(adapter), rows
        self.images = torch.arange(len(rows), device=rows.device) if images is None else images
        if adapter.prompt_count:
            dropped, at = 1 + patches - rows.shape[1], adapter.prompts_at
            self.adapter.prompts_at = slice(at.start - dropped, at.stop - dropped)
        self.attaches_to = self.adapter.attaches_to
        self.prompts_at, self.prompt_depth = self.adapter.prompts_at, self.adapter.prompt_depth

    def on_embeddings(self, x: Tensor) -> Tensor:
        return self.adapter.on_embeddings(x[self.images[:, None], self.rows])

    def pre_block(self, i: int, x: Tensor) -> Tensor:
        return self.adapter.pre_block(i, x)

    def post_block(self, i: int, x: Tensor) -> Tensor:
        return self.adapter.post_block(i, x)

    def on_activation(self, point: str, i: int, x: Tensor, source: Tensor | None) -> Tensor:
        return self.adapter.on_activation(point, i, x, source)

    def parameter(self, name: str, i: int, frozen: Tensor) -> Tensor:
        return self.adapter.parameter(name, i, frozen)

    def live_rows(self, i: int) -> slice:
        return self.adapter.live_rows(i)

    def fold(self, tower: Tower) -> None:
        self.adapter.fold(tower)


def kept_rows(order: Tensor, fraction: float) -> Tensor:
    """Rows (C, n) of the tokens that are left, [cls] first, without the first `fraction` of `order` (C, M)."""
    kept = 1 + order[:, round(fraction * order.shape[1]) :]
    return torch.cat([torch.zeros_like(order[:, :1]), kept], 1)


@torch.no_grad()
def features_of_rows(
    model: TunedCLIP, tokens: Tensor, rows: Tensor, images: Tensor | None = None, tower: VisionTower | None = None
) -> Tensor:
    """Unit vectors (C, joint width) of images of which only `rows` (C, n) of the tokens are left.

    Args:
        tokens: all that are embedded, (B, 1 + M, D) in the dtype of the tower (see `VisionTower.embed`).
        images: (C,), the image of the batch that each sequence is of; default: every image once.
        tower: to run in place of the model's own.
    """
    adapter = DropPatches(model.adapters.vision, rows, model.vision.patches, images)
    return F.normalize((tower or model.vision).encode(tokens, adapter).float(), dim=-1)


class Judge:
    """Whether images are right, as float32 says it, but computed in bfloat16 where that is enough.

    A device that multiplies bfloat16 in hardware takes half the time or less for it. What counts is only the sign of a
    margin, the logit of the image's class minus the largest of the others. The smallest margins, and all within
    `tolerance`, are computed again in float32, and the tolerance grows to twice the largest error that these ever had.
    So an error twice as large as any seen would go unnoticed; rounding has not shown one.

    Args:
        model: any model on the backbone of those that are judged.

    Attributes:
        draft: the backbone's vision branch in bfloat16, or None where that does not pay.
        tolerance: in units of logits.
    """

    def __init__(self, model: TunedCLIP) -> None:
        visual, device = model.vision.visual, model.logit_scale.device.type
        self.draft: VisionTower | None = None
        if visual.conv1.weight.dtype == torch.float32 and has_native_bf16(device):
            self.draft = VisionTower(SimpleNamespace(visual=copy.deepcopy(visual).to(torch.bfloat16)))
        self.tolerance = DOUBT * float(model.logit_scale)

    @torch.no_grad()
    def right(
        self, model: TunedCLIP, tokens: Tensor, label: Tensor, images: Tensor, rows: Tensor, texts: Tensor
    ) -> Tensor:
        """Whether C sequences are right, bool (C,).

        Args:
            tokens: of B images (B, 1 + M, D), embedded by the model.
            label: (B,), their classes.
            images: (C,), the image that each sequence is of.
            rows: (C, n), the tokens that are left of it, [cls] first.
            texts: text features (K, joint width).
        """
        at_once = max(TOKENS_AT_ONCE, NUMBERS_AT_ONCE // model.vision.width) // rows.shape[1]

        def logits(tower: VisionTower, some: Tensor) -> Tensor:
            embedded = tokens.to(tower.visual.conv1.weight.dtype)
            parts = zip(images[some].split(at_once), rows[some].split(at_once))
            features = [features_of_rows(model, embedded, kept, which, tower) for which, kept in parts]
            return model.logit_scale * torch.cat(features) @ texts.T

        doubtful = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if self.draft is None:
            return logits(model.vision, doubtful).argmax(-1) == label[images]
        found = logits(self.draft, doubtful)
        exact, smallest = ~doubtful, margins(found, label[images]).abs()
        least = float(smallest.kthvalue(-(-len(rows) // CHECKED)).values)  # so many are always checked
        while (doubtful := (margins(found, label[images]).abs() <= max(self.tolerance, least)) & ~exact).any():
            again, of = logits(model.vision, doubtful), label[images[doubtful]]
            error = float((margins(again, of) - margins(found[doubtful], of)).abs().max())
            found[doubtful], exact = again, exact | doubtful
            self.tolerance = max(self.tolerance, 2 * error)
        return found.argmax(-1) == label[images]
