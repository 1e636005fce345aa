"""What is known of a pretrained CLIP before it is built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from promptbias.model.images import OPENAIS, Preprocessing

State = dict[str, Tensor]  # tensors by their names
GELU, QUICK_GELU = "gelu", "quick_gelu"


class Branch(NamedTuple):
    """What the weights of a branch do not say.

    Attributes:
        heads: of attention; None: one for every 64 of the width, OpenAI's rule.
        activation: QUICK_GELU, u σ(1.702 u), or GELU, u Φ(u).
        eps: of its LayerNorms.
    """

    heads: int | None = None
    activation: str = QUICK_GELU
    eps: float = 1e-5


class VisionSize(NamedTuple):
    """The size of a ViT."""

    width: int
    blocks: int
    patch: int

    def __str__(self) -> str:
        return f"width {self.width}, {self.blocks} blocks and patches of {self.patch} pixels"

    @classmethod
    def of(cls, state: State) -> "VisionSize":
        """From weights under OpenAI's names."""
        width, _, _, patch = state["visual.conv1.weight"].shape
        return cls(width, count_blocks(state, "visual.transformer"), patch)


def count_blocks(state: State, transformer: str) -> int:
    """Residual blocks of the branch whose blocks are <transformer>.resblocks.<i>."""
    return sum(key.startswith(f"{transformer}.resblocks.") and key.endswith(".ln_1.weight") for key in state)


def image_size_of(state: State) -> int:
    """Pixels on a side of the images for which the positional embedding has been trained."""
    patches = state["visual.positional_embedding"].shape[0] - 1
    return round(patches**0.5) * VisionSize.of(state).patch


@dataclass(frozen=True)
class Backbone:
    """A pretrained CLIP. Nothing large is read before `weights` is called.

    Attributes:
        name: how it is called in messages.
        weights: returns the weights under the names of OpenAI's `clip` module, in the dtypes of their source.
        vision, text: the branches.
        image_size: pixels on a side, where its source says it; None: as its weights say.
        vision_size: as its source says it; None: as its weights say.
        preprocessing: of the images that it was trained on.
    """

    name: str
    weights: Callable[[], State]
    vision: Branch = Branch()
    text: Branch = Branch()
    image_size: int | None = None
    vision_size: VisionSize | None = None
    preprocessing: Preprocessing = OPENAIS

    def input_size(self) -> int:
        """Pixels on a side of its images. Reads the weights where nothing else says it."""
        return self.image_size or image_size_of(self.weights())
