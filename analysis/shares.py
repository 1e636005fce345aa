"""Shares of relevancy, image by image. A row of zeros has no shares, and is left out of every mean."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from promptbias.interp.relevancy import relevancy, shares
from promptbias.interp.statistics import Means, column_masks, rank_correlation
from promptbias.interp.token_layout import text_columns
from promptbias.model.tuned_clip import TunedCLIP

KINDS = ("SOS", "prompts", "template", "class", "end")  # of text tokens, as in `text_columns`
MAX_PROMPTS_IN_INSET = 12  # text prompts; more fill the figure anyway


@dataclass
class ModelContribution:
    """Shares of relevancy in one model. I images, M patches, V vision prompts, N text positions.

    An image without any relevancy (a row of zeros) has no shares: it is NaN by image, and left out of the means.

    Attributes:
        text: (N,) by position, mean over images; 0 from EOS on.
        vision: (M + V,) of patches and prompts, mean over images.
        patches_alone: (M,) of patches among themselves, mean over images.
        text_kinds_by_image: (I, 5) added up by KINDS.
        vision_prompts_by_image: (I,) of all prompts together.
        rank_correlation_by_image: (I,) with CLIP's patch relevancy.
        curve_rank_correlation: the same of the mean curves.
        class_start: first position of the class name.
        text_end: last position of EOS in any text.
    """

    text: np.ndarray
    vision: np.ndarray
    patches_alone: np.ndarray
    text_kinds_by_image: np.ndarray
    vision_prompts_by_image: np.ndarray
    rank_correlation_by_image: np.ndarray
    curve_rank_correlation: float
    class_start: int
    text_end: int

    @property
    def text_kinds(self) -> np.ndarray:
        """(5,), mean over images."""
        return np.nanmean(self.text_kinds_by_image, 0)

    @property
    def rank_correlation(self) -> float:
        """Mean over images."""
        return float(np.nanmean(self.rank_correlation_by_image))

    @property
    def without_relevancy(self) -> dict[str, int]:
        """How many images have none in the text branch, and in the vision branch."""
        by_image = {"text": self.text_kinds_by_image[:, 0], "vision": self.vision_prompts_by_image}
        return {branch: int(np.isnan(values).sum()) for branch, values in by_image.items()}


@dataclass
class Contribution:
    """Contributions in every model of a comparison, over one set of images.

    Attributes:
        models: label -> contributions, plain CLIP first.
        kind_names: what KINDS are called in figures.
        patches: M.
        select: "all", or "corrected" for those that CLIP gets wrong and the tuned run gets right.
        first_block: the block (from 0) at which relevancy starts.
        template_note: a sentence on the models' templates, or "".
    """

    models: dict[str, ModelContribution]
    kind_names: list[str]
    patches: int
    select: str
    first_block: int
    template_note: str

    @property
    def count(self) -> int:
        """Images."""
        return len(next(iter(self.models.values())).text_kinds_by_image)

    @property
    def vision_length(self) -> int:
        """M and the largest number of vision prompts."""
        return max(len(model.vision) for model in self.models.values())

    @property
    def context_length(self) -> int:
        """The largest number of positions before a class name, SOS included."""
        return max(model.class_start for model in self.models.values())

    @property
    def text_inset(self) -> bool:
        """Whether there is something before the class name to enlarge, and room for it."""
        return 1 < self.context_length <= 1 + MAX_PROMPTS_IN_INSET


class SharesByImage:
    """Shares of relevancy in one model, image by image, and their means."""

    MEANS = ("text", "vision", "patches alone")

    def __init__(self, model: TunedCLIP) -> None:
        self.model, self.means = model, Means()
        self.columns = [text_columns(model, k) for k in range(len(model.classnames))]
        self.by_image: dict[str, list[Tensor]] = {"text kinds": [], "vision prompts": [], "rank correlation": []}

    def add(self, image: Tensor, label: Tensor, first_block: int, plain_patches: Tensor | None) -> Tensor:
        """Add images (B, 3, S, S) with labels (B,).

        Args:
            plain_patches: (B, M), what this returned for plain CLIP; None for plain CLIP itself.

        Returns:
            Relevancy of the patches, (B, M).
        """
        model, M = self.model, self.model.vision.patches
        found = relevancy(model, image, label, first_block)
        text = torch.zeros(len(label), model.context_length)
        text[:, : found.text.shape[1]] = shares(found.text)
        vision, patches = shares(found.vision).cpu(), found.vision[:, :M].cpu()
        plain_patches = patches if plain_patches is None else plain_patches
        for name, rows in zip(self.MEANS, (text, vision, shares(patches))):
            if rows.any():
                self.means.add(name, rows[rows.any(-1)])
        masks = column_masks([self.columns[k] for k in label.tolist()], model.context_length)
        kinds = torch.stack([(text * masks[kind]).sum(-1) for kind in KINDS], -1)
        ranked = rank_correlation(plain_patches, patches)
        self.by_image["text kinds"].append(nan_unless(text.any(-1), kinds))
        self.by_image["vision prompts"].append(nan_unless(vision.any(-1), vision[:, M:].sum(-1)))
        self.by_image["rank correlation"].append(nan_unless(plain_patches.any(-1) & patches.any(-1), ranked))
        return patches

    def contribution(self, plain_patches: np.ndarray) -> ModelContribution:
        """What was found; `plain_patches` (M,) is the mean of "patches alone" of plain CLIP."""
        means = {name: self.means[name] for name in self.MEANS}
        curves = torch.from_numpy(plain_patches), torch.from_numpy(means["patches alone"])
        kinds, prompts, ranked = (torch.cat(values).double().numpy() for values in self.by_image.values())
        return ModelContribution(
            text=means["text"],
            vision=means["vision"],
            patches_alone=means["patches alone"],
            text_kinds_by_image=kinds,
            vision_prompts_by_image=prompts,
            rank_correlation_by_image=ranked,
            curve_rank_correlation=float(rank_correlation(*curves)),
            class_start=self.columns[0]["class"].start,
            text_end=int(self.model.text.tokens.argmax(-1).max()),
        )


def nan_unless(condition: Tensor, values: Tensor) -> Tensor:
    """Values (B, ...) where a condition (B,) holds, NaN elsewhere."""
    return torch.where(condition.view(-1, *[1] * (values.ndim - 1)), values, torch.nan)
