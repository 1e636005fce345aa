"""Which rows and columns of attention are which tokens."""

from collections.abc import Iterable

from promptbias.model.templates import tokenize
from promptbias.model.tuned_clip import TunedCLIP


def vision_columns(model: TunedCLIP) -> dict[str, slice]:
    """Columns (and rows) of attention in the vision branch: "cls", "patches" (M, row by row), "prompts" (V or none)."""
    M = model.vision.patches
    return {
        "cls": slice(0, 1),
        "patches": slice(1, 1 + M),
        "prompts": slice(1 + M, 1 + M + model.adapters.vision.prompt_count),
    }


def text_columns(model: TunedCLIP, k: int) -> dict[str, slice]:
    """Columns (and rows) of attention in the text branch, for class k.

    "SOS", "prompts" (T or none), "template" (the words before the class name, but for those that prompts replace),
    "class", "end" (the template after the class name, such as "."), "EOS". Each follows the one before; after EOS comes
    padding.
    """
    tokens = model.text.tokens[k]
    before, after = (
        int(tokenize([part], [part], model.context_length)[0].argmax()) - 1 for part in model.template.split("{}")
    )
    eos = int(tokens.argmax())
    bounds = [0, 1, 1 + model.adapters.text.prompt_count, 1 + before, eos - after, eos, eos + 1]
    names = ("SOS", "prompts", "template", "class", "end", "EOS")
    return {name: slice(a, b) for name, a, b in zip(names, bounds, bounds[1:])}


def end_name(models: Iterable[TunedCLIP]) -> str:
    """What figures of these models call "end": “.”, unless a template has words after the class name."""
    only_dots = all(model.template.endswith("{}.") for model in models)
    return "“.”" if only_dots else "words after the class name"
