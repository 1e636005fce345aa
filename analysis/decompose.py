"""Attention with prompts, taken apart into what comes from the inputs and what from the prompts (eqs. 12, 17-33).

For a row that is no prompt, and per head, let a be the softmax over the columns of the inputs alone, pi the mass
that the full softmax gives to the prompts, and u what the head gathers from them. Then, exactly,

    attention update = (1 - pi) a v W_O + u W_O + b_O.

Inputs are all tokens but the prompts: [cls] and patches, or SOS and what stands after the prompts up to EOS. Shapes:
B samples, H heads, L blocks, N tokens of which n are inputs, d = D / H; S sets of rows (see `Branch.sets`).
"""

import argparse
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptbias.interp.cache import tapped
from promptbias.model.encoder import Tap, Tower, Tuner, join_heads
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError

from . import figures
from .run import Study

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

    def attend(self, i: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        prompts, n = self.prompts_at, q.shape[-2]
        v = v.float()
        full = self.weights(q, k, mask)
        gathered = full @ v
        inputs = torch.cat([torch.arange(n)[: prompts.start], torch.arange(n)[prompts.stop :]]).to(q.device)
        among = None if mask is None else mask[inputs][:, inputs]
        sees = torch.ones(len(inputs)) if mask is None else (mask[inputs, prompts.start] == 0).float()
        to_prompts = full[..., inputs, prompts]
        gathered[..., inputs, :] = self.update(
            i,
            Parts(
                a=self.weights(q[..., inputs, :], k[..., inputs, :], among),
                pi=to_prompts.sum(-1, keepdim=True),
                v=v[..., inputs, :],
                u=to_prompts @ v[..., prompts, :],
                whole=gathered[..., inputs, :],
                sees_prompts=sees[:, None].to(q.device),
            ),
        )
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
    def features(self, batch: Tensor, tap: Tap | None = None, tuner: Tuner | None = None) -> Tensor:
        """Unit vectors (B, joint width) of a batch, with the branch's own tuner or another one."""
        with tapped(self.tower, tap):
            return F.normalize(self.walk(batch, self.tuner if tuner is None else tuner).float(), dim=-1)

    def attention(self, batch: Tensor, tuner: Tuner | None = None) -> Attention:
        """The attention among inputs of every block."""
        tap = Attention(self.tuner.prompts_at)
        self.features(batch, tap, tuner)
        return tap

    def walk(self, batch: Tensor, tuner: Tuner) -> Tensor:
        """A batch through the tower, not normalised."""
        raise NotImplementedError

    def batches(self, study: Study, split: str = "test") -> Iterable[Tensor]:
        """The images of a study, or all classes, in batches."""
        raise NotImplementedError

    def sets(self, batch: Tensor) -> Tensor:
        """Weights (2, B, n), 0 or 1, of the inputs that statistics are taken over: in the first set [cls] and patches,
        or all that stands after the prompts up to EOS; in the second the row that is read, [cls] or EOS."""
        raise NotImplementedError


class ImageBranch(Branch):
    name, read = "image", "[cls]"

    def __init__(self, model: TunedCLIP) -> None:
        self.tower, self.tuner = model.vision, model.learner.vision

    def walk(self, batch: Tensor, tuner: Tuner) -> Tensor:
        return self.tower(batch, tuner)

    def batches(self, study: Study, split: str = "test") -> Iterable[Tensor]:
        return (image for image, _ in study.batches("image prompts", split))

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

    def batches(self, study: Study, split: str = "test") -> Iterable[Tensor]:
        return self.classes()

    def classes(self, size: int = 256) -> Iterable[Tensor]:
        """All class indices."""
        return torch.arange(len(self.tower.tokens), device=self.tower.tokens.device).split(size)

    def sets(self, batch: Tensor) -> Tensor:
        prompts = self.tuner.prompts_at
        eos = self.tower.tokens[batch].argmax(-1)[:, None]  # (B, 1)
        at = torch.arange(int(eos.max()) + 1, device=eos.device)
        at = torch.cat([at[: prompts.start], at[prompts.stop :]])
        return torch.stack([(at >= prompts.stop) & (at <= eos), at == eos]).float()


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

    def means(self) -> dict[str, Tensor]:
        """(L, S, H) each, (L, S, 1) for `block`."""
        return {name: torch.stack(sums) / self.count[:, None] for name, sums in self.sums.items()}


def branches_with_prompts(study: Study) -> list[Branch]:
    """The branches of the tuned run that have prompts.

    Raises:
        UserError: none has.
    """
    branches = [b for b in (ImageBranch(study.tuned), TextBranch(study.tuned)) if b.has_prompts]
    if not branches:
        raise UserError(
            f'"{study.label}" has no prompts, so nothing can be taken apart; give a run of IVLP as --model-dir'
        )
    return branches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(study: Study, args: argparse.Namespace) -> figures.Result:
    """Shares of the prompts in every block and head, over all test images and all classes.

    Raises:
        UserError: the tuned run has no prompts.
    """
    branches = branches_with_prompts(study)
    shares = [Shares(branch).stream(branch.batches(study)) for branch in branches]
    result = figures.Result(
        "An input's attention update is exactly (1 - π) a v W_O + u W_O + b_O: what it would gather from the inputs "
        "alone, scaled down by the attention mass π that goes to the prompts, plus what it gathers from the prompts."
        " First row: π. Second row: length of the prompts' part relative to the lengths of both parts. Third row: "
        "how much of the attention among inputs (a) has gone elsewhere, compared with plain CLIP"
        + ("; it is 0 in the first image block, where prompts can only rescale" if branches[0].name == "image" else "")
        + ". Dots are heads, for all inputs ("
        + " or ".join(INPUTS[branch.name] for branch in branches)
        + ")."
    )
    for branch, share in zip(branches, shares):
        for name, values in share.means().items():
            result.numbers[f"{branch.name}_{name}"] = values.cpu().numpy()  # (L, S, H or 1)
        mean = {name: float(values[:, 0].mean()) for name, values in share.means().items()}
        result.headlines += [
            (f"{branch.name}: attention mass on the prompts, mean over blocks and heads", mean["pi"]),
            (f"{branch.name}: share of the prompts in the length of the update, mean over blocks", mean["block"]),
            (f"{branch.name}: attention among inputs that moved, mean over blocks and heads", mean["moved"]),
            (f"{branch.name}: attention among inputs that moved, block 1", float(share.means()["moved"][0, 0].mean())),
            (f"{branch.name}: largest error of the sum of the parts, relative", share.error),
        ]
    result.figures["decompose"] = plot_blocks(branches, result.numbers)
    result.figures["decompose-heads"] = plot_heads(branches, result.numbers)
    return result


INPUTS = {"image": "[cls] and patches", "text": "what stands between the prompts and the end of EOS"}

# The row that is read at the end. All inputs together have the run's own look.
READ_LABEL, READ_LOOK = "[cls] or EOS alone", {"color": "#333333", "linestyle": "-", "marker": "s"}


def plot_blocks(branches: list[Branch], numbers: dict[str, np.ndarray]) -> figures.Figure:
    """One column per branch: attention mass, share of the update, moved attention, over the blocks."""
    rows = (
        ("pi", "pi", "attention mass\non prompts, π"),
        ("head", "block", "prompts' share of\nthe update's length"),
        ("moved", "moved", "attention among inputs\nthat moved"),
    )
    figure, axes = figures.subplots(len(rows), len(branches), height=1.9)
    for column, branch in zip(axes.T, branches):
        for ax, (dots, line, label) in zip(column, rows):
            of_heads, of_blocks = numbers[f"{branch.name}_{dots}"], numbers[f"{branch.name}_{line}"].mean(-1)
            look, x = figures.look(1), np.arange(1, len(of_blocks) + 1)
            ax.plot(
                x,
                of_heads[:, 0],
                linestyle="none",
                marker=look["marker"],
                color=look["color"],
                alpha=0.4,
                markeredgewidth=0,
                label=["all inputs, one head"] + [None] * (of_heads.shape[2] - 1),
            )
            ax.plot(x, of_blocks[:, 0], label="all inputs", **look)
            ax.plot(x, of_blocks[:, 1], label=READ_LABEL, **READ_LOOK)
            ax.set_ylim(0, 1.1 * max(of_heads[:, 0].max(), of_blocks.max()))
            ax.set_ylabel(label)
            figures.block_axis(ax, len(of_blocks))
        column[0].set_title(f"{branch.name} branch")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def plot_heads(branches: list[Branch], numbers: dict[str, np.ndarray]) -> figures.Figure:
    """One column per branch: attention mass and share of each block and head, of all inputs; one colour scale for each row."""
    rows = (("pi", "attention mass\non prompts, π"), ("head", "prompts' share of\nthe head's update"))
    most = {name: max(numbers[f"{branch.name}_{name}"][:, 0].max() for branch in branches) for name, _ in rows}
    figure, axes = figures.subplots(len(rows), len(branches), height=1.8)
    for column, branch in zip(axes.T, branches):
        for ax, (name, label) in zip(column, rows):
            values = numbers[f"{branch.name}_{name}"][:, 0].T  # (H, L)
            H, blocks = values.shape
            image = ax.imshow(
                values,
                aspect="auto",
                origin="lower",
                cmap="Reds",
                vmin=0,
                vmax=most[name],
                extent=(0.5, blocks + 0.5, 0.5, H + 0.5),
            )
            ax.set_yticks(range(1, H + 1))
            ax.set_ylabel("head")
            ax.grid(False)
            figures.block_axis(ax, blocks)
            ax.set_xlim(0.5, blocks + 0.5)
            figure.colorbar(image, ax=ax, label=label)
        column[0].set_title(f"{branch.name} branch")
    return figure
