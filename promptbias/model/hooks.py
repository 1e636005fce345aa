"""Named points of a tower that hooks can read and replace.

In every block i (from 0), in the order of the computation; B sequences, N tokens, D width, H heads, d = D / H:

    blocks.{i}.resid_pre      (B, N, D)     what the block receives, before `ln_1`, prompts included
    blocks.{i}.ln_1           (B, N, D)
    blocks.{i}.attn.q         (B, N, D)     heads side by side; likewise attn.k and attn.v
    blocks.{i}.attn.pattern   (B, H, N, N)  attention after softmax, in float32
    blocks.{i}.attn.z         (B, H, N, d)  what each head gathers
    blocks.{i}.attn.out       (B, N, D)     after the output projection
    blocks.{i}.resid_mid      (B, N, D)
    blocks.{i}.ln_2           (B, N, D)
    blocks.{i}.mlp.hidden     (B, N, 4 D)   before the activation
    blocks.{i}.mlp.out        (B, N, D)
    blocks.{i}.resid_post     (B, N, D)     what the block returns

and, once in a tower, `embeddings` (B, N, D), what the first block is made from, and `features` (B, joint width), not
normalised. While a tower has hooks, every sequence is laid out in full and every row of every block is computed.
Columns and rows are then [cls], M patches, prompts (vision), or SOS, prompts or template words, class words, ".", EOS,
padding (text).
"""

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from promptbias.utils.errors import UserError, nearest

IN_BLOCK = (
    "resid_pre",
    "ln_1",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.pattern",
    "attn.z",
    "attn.out",
    "resid_mid",
    "ln_2",
    "mlp.hidden",
    "mlp.out",
    "resid_post",
)
IN_MLP = ("ln_2", "mlp.hidden", "mlp.out")
EMBEDDINGS, FEATURES = "embeddings", "features"


class Point(NamedTuple):
    """Where a hook is called: `block` from 0, or None outside of the blocks; `name` as in IN_BLOCK."""

    block: int | None
    name: str

    def __str__(self) -> str:
        return self.name if self.block is None else f"blocks.{self.block}.{self.name}"


# Takes the value at a point and returns None to leave it, or what takes its place.
Hook = Callable[[Tensor, Point], Tensor | None]


class Hooks:
    """Hooks by point, as a tower calls them."""

    def __init__(self) -> None:
        self.at_point: dict[Point, list[Hook]] = {}

    def __call__(self, point: Point, value: Tensor) -> Tensor:
        for hook in self.at_point.get(point, ()):
            replacement = hook(value, point)
            value = value if replacement is None else replacement
        return value

    def inside_mlp(self, block: int) -> bool:
        """Whether one of them wants what the fused MLP does not compute."""
        return any(Point(block, name) in self.at_point for name in IN_MLP)

    def extended(self, more: Mapping[Point, Hook]) -> "Hooks":
        """These hooks and more; at one point the earlier ones are called first."""
        both = Hooks()
        both.at_point = {point: list(hooks) for point, hooks in self.at_point.items()}
        for point, hook in more.items():
            both.at_point.setdefault(point, []).append(hook)
        return both


def points_of(blocks: int) -> list[Point]:
    """All points of a tower with so many blocks."""
    inside = [Point(i, name) for i in range(blocks) for name in IN_BLOCK]
    return [Point(None, EMBEDDINGS), *inside, Point(None, FEATURES)]


def matching(pattern: str, blocks: int) -> list[Point]:
    """The points whose names match a pattern such as "blocks.*.attn.pattern".

    Raises:
        UserError: none does.
    """
    points = points_of(blocks)
    found = [point for point in points if fnmatch.fnmatchcase(str(point), pattern)]
    if not found:
        hint = nearest(pattern, ["embeddings", *(f"blocks.*.{name}" for name in IN_BLOCK), "features"])
        raise UserError(f'no hook point matches "{pattern}" in a tower of {blocks} blocks (numbered from 0): {hint}')
    return found


class Hookable:
    """What makes a tower hookable. While `hooks` is None, it computes no more than it must."""

    hooks: Hooks | None = None
    blocks: list

    @contextlib.contextmanager
    def hooked(self, hooks: Mapping[str, Hook]) -> Iterator[None]:
        """Call hooks while the context lasts; those of an outer context are called first.

            with tower.hooked({"blocks.*.attn.v": lambda v, point: torch.zeros_like(v)}):
                ...

        Args:
            hooks: pattern of names -> hook.

        Raises:
            UserError: a pattern that matches no point.
        """
        table = self.hooks or Hooks()
        for pattern, hook in hooks.items():
            table = table.extended(dict.fromkeys(matching(pattern, len(self.blocks)), hook))
        before, self.hooks = self.hooks, table
        try:
            yield
        finally:
            self.hooks = before
