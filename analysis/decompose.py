"""Attention with prompts, taken apart into what comes from the inputs and what comes from the prompts (eqs. 12 and 17-33).

For a row that is no prompt, and per head, let a be the softmax over the columns of the inputs alone, pi the mass that the
full softmax gives to the prompts, and u what the head gathers from them. Then, exactly,

    attention update = (1 - pi) a v W_O + u W_O + b_O.

Inputs are all tokens but the prompts: [cls] and patches, or SOS and what stands after the prompts up to EOS.
Shapes: B samples, H heads, L blocks, N tokens of which n are inputs, d = D / H; S sets of rows (see `Branch.sets`).
"""
import contextlib
from typing import Dict, Iterable, Iterator, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.tower import Tap, Tower, Tuner, join_heads
from trainers.tuned_clip import TunedCLIP

PLAIN = Tuner()  # nothing learned: the branch of the plain CLIP


class Parts(NamedTuple):
    """The attention of the inputs in one block, taken apart. All of it is float32, before `out_proj`."""

    a: Tensor  # (B, H, n, n), softmax over the inputs' columns alone
    pi: Tensor  # (B, H, n, 1), mass of the full softmax on the prompts
    v: Tensor  # (B, H, n, d), values of the inputs, bias included
    u: Tensor  # (B, H, n, d), what is gathered from the prompts
    whole: Tensor  # (B, H, n, d), what is gathered in the untouched model: (1 - pi) a v + u
    sees_prompts: Tensor  # (n, 1), 1 where the mask lets the row attend to prompts, else 0 (SOS)


class TakenApart(Tap):
    """A tap that hands the attention of each block, taken apart, to `update`. Rows of prompts attend as ever.

    Args:
        prompts_at: where prompts stand among the tokens (`Tuner.prompts_at`). If they stand beyond the end of the
            sequence, as in a plain vision branch, every token is an input.
    """

    def __init__(self, prompts_at: slice) -> None:
        self.prompts_at = prompts_at

    def attend(self, i: int, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor]) -> Tensor:
        prompts, n = self.prompts_at, q.shape[-2]
        v = v.float()
        full = self.weights(q, k, mask)
        gathered = full @ v
        inputs = torch.cat([torch.arange(n)[:prompts.start], torch.arange(n)[prompts.stop:]]).to(q.device)
        among = None if mask is None else mask[inputs][:, inputs]
        sees = torch.ones(len(inputs)) if mask is None else (mask[inputs, prompts.start] == 0).float()
        to_prompts = full[..., inputs, prompts]
        gathered[..., inputs, :] = self.update(i, Parts(
            a=self.weights(q[..., inputs, :], k[..., inputs, :], among),
            pi=to_prompts.sum(-1, keepdim=True),
            v=v[..., inputs, :],
            u=to_prompts @ v[..., prompts, :],
            whole=gathered[..., inputs, :],
            sees_prompts=sees[:, None].to(q.device),
        ))
        return gathered

    def update(self, i: int, parts: Parts) -> Tensor:
        """What the inputs gather in block i (B, H, n, d); as it stands, what they gather in the untouched model."""
        return parts.whole


class Attention(TakenApart):
    """Keeps the attention among inputs: `a`, one (B, H, n, n) per block."""

    def __init__(self, prompts_at: slice) -> None:
        super().__init__(prompts_at)
        self.a = []

    def update(self, i: int, parts: Parts) -> Tensor:
        self.a.append(parts.a)
        return super().update(i, parts)


@contextlib.contextmanager
def tapped(tower: Tower, tap: Optional[Tap]) -> Iterator[None]:
    """The tower with a tap, inside the context only."""
    tower.tap = tap
    try:
        yield
    finally:
        tower.tap = None


class Branch:
    """One branch of a model, as the analysis walks it. A batch is images, or class indices.

    Attributes:
        name: "image" or "text".
        read: name of the row that is read at the end.
    """

    name: str
    read: str
    tower: Tower
    tuner: Tuner

    @property
    def has_prompts(self) -> bool:
        return self.tuner.prompts_at.stop > self.tuner.prompts_at.start

    @torch.no_grad()
    def features(self, batch: Tensor, tap: Optional[Tap] = None, tuner: Optional[Tuner] = None) -> Tensor:
        """Unit vectors (B, joint width) of a batch, with the branch's own tuner or another one."""
        with tapped(self.tower, tap):
            return F.normalize(self.walk(batch, self.tuner if tuner is None else tuner).float(), dim=-1)

    def attention(self, batch: Tensor, tuner: Optional[Tuner] = None) -> Attention:
        """The attention among inputs of every block."""
        tap = Attention(self.tuner.prompts_at)
        self.features(batch, tap, tuner)
        return tap

    def walk(self, batch: Tensor, tuner: Tuner) -> Tensor:
        raise NotImplementedError

    def sets(self, batch: Tensor) -> Tensor:
        """Weights (2, B, n), 0 or 1, of the inputs that statistics are taken over: all that see prompts and are not
        padding, and the row that is read ([cls] or EOS)."""
        raise NotImplementedError


class ImageBranch(Branch):
    name, read = "image", "[cls]"

    def __init__(self, model: TunedCLIP) -> None:
        self.tower, self.tuner = model.vision, model.learner.vision

    def walk(self, batch: Tensor, tuner: Tuner) -> Tensor:
        return self.tower(batch, tuner)

    def sets(self, batch: Tensor) -> Tensor:
        every = torch.ones(len(batch), 1 + self.tower.patches, device=batch.device)
        cls = torch.zeros_like(every)
        cls[:, 0] = 1
        return torch.stack([every, cls])


class TextBranch(Branch):
    name, read = "text", "EOS"

    def __init__(self, model: TunedCLIP) -> None:
        self.tower, self.tuner = model.text, model.learner.text

    def walk(self, batch: Tensor, tuner: Tuner) -> Tensor:
        return self.tower(tuner, batch)

    def sets(self, batch: Tensor) -> Tensor:
        prompts = self.tuner.prompts_at
        eos = self.tower.tokens[batch].argmax(-1)[:, None]  # (B, 1)
        at = torch.arange(int(eos.max()) + 1, device=eos.device)
        at = torch.cat([at[:prompts.start], at[prompts.stop:]])
        return torch.stack([(at >= prompts.stop) & (at <= eos), at == eos]).float()

    def batches(self, size: int = 256) -> Iterable[Tensor]:
        """All classes."""
        return torch.arange(len(self.tower.tokens), device=self.tower.tokens.device).split(size)


class Statistics(TakenApart):
    """A tap that streams sums over the rows of each set; `stream` gives it those of the batch at hand.

    Attributes:
        count: (S,) rows seen.
    """

    def __init__(self, branch: Branch) -> None:
        super().__init__(branch.tuner.prompts_at)
        self.branch = branch
        self.count = 0

    def begin(self, batch: Tensor) -> None:
        self.sets = self.branch.sets(batch)
        self.count = self.count + self.sets.sum((1, 2)).double()

    def stream(self, batches: Iterable[Tensor]):
        for batch in batches:
            self.begin(batch)
            self.branch.features(batch, self)
        return self


class Shares(Statistics):
    """How much of each block's and head's update comes from the prompts.

    Sums over the rows of the sets, each (L, S, H) or, for a block as a whole, (L, S, 1):
        pi: attention mass on the prompts.
        head: |u W_h| / (|u W_h| + |(1 - pi) a v W_h|), with the head's own rows W_h of W_O.
        block: the same with the heads summed.
        moved: total variation 1/2 sum |a - a of plain CLIP|, that is, the attention among inputs that went elsewhere.
    """

    NAMES = ("pi", "head", "block", "moved")

    def __init__(self, branch: Branch) -> None:
        super().__init__(branch)
        self.sums = {name: [0.0] * len(branch.tower.blocks) for name in self.NAMES}
        self.error = 0.0  # largest |update - sum of its parts| relative to the largest update

    def begin(self, batch: Tensor) -> None:
        super().begin(batch)
        self.plain = self.branch.attention(batch, PLAIN).a

    def update(self, i: int, parts: Parts) -> Tensor:
        own = (1 - parts.pi) * (parts.a @ parts.v)
        W = self.branch.tower.blocks[i].attn.out_proj.weight.float()  # (D, D)
        heads = W.unflatten(1, (own.shape[1], -1)).permute(1, 2, 0)  # (H, d, D)
        gram = heads @ heads.transpose(1, 2)  # |x W_h|^2 = x (W_h W_h^T) x^T needs no (B, H, n, D)
        of_head = [((x @ gram) * x).sum(-1).clamp(min=0).sqrt() for x in (parts.u, own)]  # (B, H, n)
        of_block = [(join_heads(x) @ W.T).norm(dim=-1)[:, None] for x in (parts.u, own)]  # (B, 1, n)
        self.add("pi", i, parts.pi[..., 0])
        self.add("head", i, of_head[0] / sum(of_head))
        self.add("block", i, of_block[0] / sum(of_block))
        self.add("moved", i, (parts.a - self.plain[i]).abs().sum(-1) / 2)
        self.error = max(self.error, float((own + parts.u - parts.whole).abs().max() / parts.whole.abs().max()))
        return parts.whole

    def add(self, name: str, i: int, values: Tensor) -> None:
        """values (B, H, n) of block i."""
        self.sums[name][i] = self.sums[name][i] + torch.einsum("sbn,bhn->sh", self.sets, values).double()

    def means(self) -> Dict[str, Tensor]:
        """(L, S, H) each, (L, S, 1) for `block`."""
        return {name: torch.stack(sums) / self.count[:, None] for name, sums in self.sums.items()}
