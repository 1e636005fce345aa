"""Controls of the prompt term, each of which changes one factor: what varies with the image, with the position, where.

With prompts, an input gathers (1 - π) a v + u in each block and head (see `decomposition`). "Dataset bias" in the paper
means: the same for all images. So u and π are held at their mean over images, position by position, or at one mean for
all positions, or are removed, each on its own; and all that prompts do is confined to some rows, the others gathering
a v as if there were no prompts. b_O always stays. In the text branch classes take the place of images.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from promptbias.model.encoder import split_heads
from promptbias.model.tuned_clip import TunedCLIP

from .accuracy import LabelledImages
from .branches import Branch, branches_of
from .decomposition import AttentionParts, PartsHook
from .prompt_term import RowStatistics

U = ("free", "mean per position", "one mean", "removed")
MASS = ("free", "mean per position", "removed")
ROWS = ("all rows", "readout row", "other rows")
CONTROLLED = ("vision", "text", "both")  # the branches that a control is applied in
SHAPE = (len(U), len(MASS), len(ROWS))


class Control(NamedTuple):
    """One cell of the grid.

    Attributes:
        u: one of U.
        mass: one of MASS, for π.
        rows: one of ROWS, those in which prompts act.
    """

    u: str
    mass: str
    rows: str


GRID = [Control(u, mass, rows) for u in U for mass in MASS for rows in ROWS]


class PositionMeans(RowStatistics):
    """Means over images of u and of π, position by position, and how constant u is.

    Positions are the P inputs of a sample in their order. The rows of the first set count (`Branch.row_masks`).

    Attributes:
        at: (P,), how many images have the position.
    """

    def __init__(self, branch: Branch, positions: int) -> None:
        super().__init__(branch)
        blocks, heads, width = len(branch.tower.blocks), branch.tower.heads, branch.tower.width
        device = branch.tower.blocks[0].attn.out_proj.weight.device
        zeros = dict(dtype=torch.float64, device=device)
        self.at = torch.zeros(positions, **zeros)
        self.sum_u = torch.zeros(blocks, positions, width, **zeros)
        self.sum_mass = torch.zeros(blocks, heads, positions, **zeros)
        self.square = torch.zeros(blocks, **zeros)

    def begin(self, batch: Tensor) -> None:
        super().begin(batch)
        self.rows = self.masks[0].double()  # (B, n)
        self.n = self.rows.shape[1]
        self.at[: self.n] += self.rows.sum(0)

    def on_parts(self, i: int, parts: AttentionParts) -> None:
        u = parts.u.transpose(1, 2).flatten(2).double()  # (B, n, D), heads side by side
        self.sum_u[i, : self.n] += torch.einsum("bn,bnc->nc", self.rows, u)
        self.sum_mass[i, :, : self.n] += torch.einsum("bn,bhn->hn", self.rows, parts.prompt_mass[..., 0].double())
        self.square[i] += (self.rows * self.project(i, u).square().sum(-1)).sum()

    def mean_u(self) -> Tensor:
        """E u at each position, before W_O, heads side by side; 0 where no image has it: (L, P, D), float32."""
        return (self.sum_u / self.at.clamp(min=1)[:, None]).float()

    def one_mean_u(self) -> Tensor:
        """E u over images and positions: (L, D), float32."""
        return (self.sum_u.sum(1) / self.at.sum()).float()

    def mean_mass(self) -> Tensor:
        """E π at each position: (L, H, P), float32."""
        return (self.sum_mass / self.at.clamp(min=1)).float()

    def constancy(self) -> Tensor:
        """E_p |E u|² / E |u|², after W_O, (L,): 1 if u is the same for all images at each position."""
        means = torch.stack([self.project(i, u) for i, u in enumerate(self.mean_u().double())])  # (L, P, D)
        return (self.at * means.square().sum(-1)).sum(-1) / self.square


def position_means(branch: Branch, batches: LabelledImages) -> PositionMeans:
    """`PositionMeans` of a branch over batches of images, or in the text branch over all classes."""
    return PositionMeans(branch, branch.positions).stream(branch.inputs(batches))


def control_hook(control: Control, means: PositionMeans, readout: Tensor) -> PartsHook:
    """One control as a hook on decomposed attention.

    Args:
        readout: (B, n), 1 in the row that becomes the features, else 0.
    """
    mean_u, one_mean, mean_mass = means.mean_u(), means.one_mean_u(), means.mean_mass()
    acts = {"all rows": torch.ones_like(readout), "readout row": readout, "other rows": 1 - readout}[control.rows]

    def on_parts(i: int, parts: AttentionParts) -> Tensor:
        H, n = parts.u.shape[1:3]
        u = {
            "free": lambda: parts.u,
            "mean per position": lambda: split_heads(mean_u[i][None, :n], H),
            "one mean": lambda: parts.sees_prompts * split_heads(one_mean[i][None, None], H),
            "removed": lambda: torch.zeros_like(parts.u),
        }[control.u]()
        mass = {
            "free": lambda: parts.prompt_mass,
            "mean per position": lambda: mean_mass[i][None, :, :n, None],
            "removed": lambda: torch.zeros_like(parts.prompt_mass),
        }[control.mass]()
        gathered = parts.a @ parts.v
        return torch.where(acts[:, None, :, None].bool(), (1 - mass) * gathered + u, gathered)

    return on_parts


def controlled_features(branch: Branch, batch: Tensor, means: PositionMeans) -> Tensor:
    """Unit vectors of a batch under every control of GRID, (len(GRID), B, joint width)."""
    if not branch.has_prompts:  # nothing to control
        return branch.features(batch).expand(len(GRID), -1, -1)
    readout = branch.row_masks(batch)[1]
    return torch.stack([branch.features(batch, control_hook(control, means, readout)) for control in GRID])


def controlled_outcomes(model: TunedCLIP, means: dict[str, PositionMeans], batches: LabelledImages) -> Tensor:
    """Whether each image is classified correctly under each control: (len(CONTROLLED), *SHAPE, images), bool.

    Args:
        means: of each branch by name, over the few-shot training images.
    """
    vision, text = branches_of(model)
    texts = torch.cat([controlled_features(text, which, means["text"]) for which in text.classes()], 1)
    full, outcomes = GRID.index(Control("free", "free", "all rows")), []
    for image, label in batches:
        images = controlled_features(vision, image, means["vision"])
        logits = (images @ texts[full].T, images[full] @ texts.transpose(1, 2), images @ texts.transpose(1, 2))
        outcomes.append(torch.stack([scores.argmax(-1) == label for scores in logits]).cpu())
    return torch.cat(outcomes, -1).unflatten(1, SHAPE)
