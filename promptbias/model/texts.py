"""A tuned model with other texts than those of its classes."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from promptbias.utils.errors import UserError

from .encoder import TextTower
from .loading import import_clip
from .templates import tokenize
from .tuned_clip import TunedCLIP

SHOWN = 60  # characters of a text in an error


def with_texts(model: TunedCLIP, texts: Sequence[str]) -> TunedCLIP:
    """The same model, with the same parameters, whose classes are `texts`, each as it is, without a template.

    Prompts of the text branch take the place of the words that they took in training, where a text begins with these
    words ("a photo of a"), as the texts of the model's classes do; otherwise they stand in front of the whole text.

    Raises:
        UserError: no text, or one that is longer than CLIP's context.
    """
    if not texts:
        raise UserError("no text is given; give at least one")
    other = copy.copy(model)
    other._modules = dict(model._modules)  # so that nothing that follows changes `model`
    other._encoded, other._frozen_text = (None, None), None
    other.classnames = list(texts)
    tokens = torch.stack([tokens_of(model, text) for text in texts])
    other.text = TextTower(model.clip, tokens).to(model.text.tokens.device)
    return other


def tokens_of(model: TunedCLIP, text: str) -> Tensor:
    """Token ids (context length,) of a text, with those that prompts replace where prompts stand.

    Raises:
        UserError: the text is longer than CLIP's context.
    """
    T, length = model.adapters.text.prompt_count, model.context_length
    first, stood_for = (t.split("{}")[0] for t in (model.template, model.method.base_template(model.template)))
    before = model.text.tokens[0, 1 : 1 + T].cpu()
    try:
        if T and text.startswith(stood_for):
            return tokenize([first + text.removeprefix(stood_for)], [text], length)[0]
        row = tokenize([text], [text], length)[0]
    except UserError as error:
        raise UserError(too_long(text, length, T)) from error
    if int(row.argmax()) + T >= length:
        raise UserError(too_long(text, length, T))
    return torch.cat([row[:1], before, row[1 : length - T]])


def too_long(text: str, length: int, prompts: int) -> str:
    shown = text if len(text) <= SHOWN else text[:SHOWN] + "…"
    there = f" with the model's {prompts} prompts" if prompts else ""
    return f'the text "{shown}" is longer than CLIP\'s {length} tokens{there}; give a shorter one'


def words_of(ids: Sequence[int]) -> list[tuple[str, int]]:
    """Token ids as words, each with its number of tokens: a word may be several tokens of CLIP's vocabulary."""
    tokenizer = import_clip()[0]._tokenizer
    words: list[tuple[str, int]] = []
    begun: list[int] = []
    for i, token in enumerate(ids):
        begun.append(token)
        if tokenizer.decoder[token].endswith("</w>") or i + 1 == len(ids):
            words.append((tokenizer.decode(begun).strip(), len(begun)))
            begun = []
    return words
