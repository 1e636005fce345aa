"""Attention at named points: looking into a tower while it runs.

    with recording(model.vision, gradient=True) as seen:
        y = model.logit_scale * (model.image_features(image) * model.text_features()[label]).sum()
        gradient, = gradients(y, seen)
    seen.attention[11], gradient[11]  # (B, H, N, N), float32, of the last block

Outside the context the tower is as it was, and as fast. `vision_columns` and `text_columns` name the columns (and rows).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from promptbias.model.templates import tokenize
from promptbias.model.encoder import Tap, Tower
from promptbias.model.tuned_clip import TunedCLIP

See = Callable[[int, Tensor], None]


class Watch(Tap):
    """Shows the attention (B, H, N, N), softmaxed, in float32, and the inputs (B, N, D) of each block, as they come.

    Args:
        attention, tokens: called with the block (from 0) and the tensor; what they do not keep is not kept.
    """

    def __init__(self, attention: See | None = None, tokens: See | None = None) -> None:
        self.see_attention, self.see_tokens = attention, tokens

    def tokens(self, i: int, x: Tensor) -> None:
        if self.see_tokens:
            self.see_tokens(i, x)

    def attend(self, i: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        weights = self.weights(q, k, mask)
        if self.see_attention:
            self.see_attention(i, weights)
        return weights.to(v.dtype) @ v


@contextlib.contextmanager
def tapped(tower: Tower, tap: Tap) -> Iterator[Tap]:
    """Let `tap` look on (or step in) while the context lasts."""
    before, tower.tap = tower.tap, tap
    try:
        yield tap
    finally:
        tower.tap = before


class Recording:
    """What `recording` keeps, by block (from 0).

    Attributes:
        attention: block -> (B, H, N, N), after softmax, float32.
        tokens: block -> (B, N, D), what the block receives, before `ln_1`, prompts included.
    """

    def __init__(self) -> None:
        self.attention: dict[int, Tensor] = {}
        self.tokens: dict[int, Tensor] = {}


@contextlib.contextmanager
def recording(
    tower: Tower,
    blocks: Sequence[int] | None = None,
    attention: bool = True,
    tokens: bool = False,
    gradient: bool = False,
) -> Iterator[Recording]:
    """Keep attention and inputs of `blocks` (from 0; default all) of the next pass through `tower`.

    Args:
        gradient: make `gradients` possible. Autograd is on while the context lasts if this is set, and off if not.
    """
    seen = Recording()
    wanted = set(range(len(tower.blocks)) if blocks is None else blocks)

    def keep_attention(i: int, weights: Tensor) -> None:
        if i in wanted:
            # With all parameters frozen the first of them is where the graph begins: nothing before costs a backward pass.
            seen.attention[i] = weights.requires_grad_() if gradient else weights

    def keep_tokens(i: int, x: Tensor) -> None:
        if i in wanted:
            seen.tokens[i] = x

    watch = Watch(keep_attention if attention else None, keep_tokens if tokens else None)
    with torch.set_grad_enabled(gradient), tapped(tower, watch):
        yield seen


def gradients(y: Tensor, *recordings: Recording) -> list[dict[int, Tensor]]:
    """∂y/∂A (B, H, N, N) by block, for each of the recordings (of one or both towers), in one backward pass.

    Args:
        y: a scalar; the sum over samples that do not depend on each other gives each sample its own gradient.
    """
    found = iter(torch.autograd.grad(y, [A for recording in recordings for A in recording.attention.values()]))
    return [{i: next(found) for i in recording.attention} for recording in recordings]


def vision_columns(model: TunedCLIP) -> dict[str, slice]:
    """Columns (and rows) of attention in the vision branch: "cls", "patches" (M, row by row), "prompts" (V, maybe none)."""
    M = model.vision.patches
    at = model.learner.vision.prompts_at
    return {"cls": slice(0, 1), "patches": slice(1, 1 + M), "prompts": slice(1 + M, 1 + M + at.stop - at.start)}


def text_columns(model: TunedCLIP, k: int) -> dict[str, slice]:
    """Columns (and rows) of attention in the text branch, for class k.

    "SOS", "prompts" (T, maybe none), "template" (its words before the class name that are no prompts), "class", "end" (the
    template's words after it: "."), "EOS". Each follows the one before; after EOS comes padding.
    """
    tokens = model.text.tokens[k]
    before, after = (
        int(tokenize([part], [part], model.context_length)[0].argmax()) - 1 for part in model.template.split("{}")
    )
    at = model.learner.text.prompts_at
    eos = int(tokens.argmax())
    bounds = [0, 1, 1 + at.stop - at.start, 1 + before, eos - after, eos, eos + 1]
    return {
        name: slice(a, b)
        for name, a, b in zip(("SOS", "prompts", "template", "class", "end", "EOS"), bounds, bounds[1:])
    }


def end_name(models: Iterable[TunedCLIP]) -> str:
    """What "end" is called in figures of all these models: “.”, unless there are other words after a class name."""
    only_dots = all(model.template.endswith("{}.") for model in models)
    return "“.”" if only_dots else "words after the class name"
