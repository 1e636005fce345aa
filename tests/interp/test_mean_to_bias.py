"""Prompts turned into biases of a stock CLIP, against the stock CLIP itself."""

import copy

import pytest
import torch
from prompted_clips import CLASSES, batch_of, deep_prompts, vision_prompts

from promptbias.interp.branches import branches_of
from promptbias.interp.mean_to_bias import base_tokens, biased_clip_outcomes
from promptbias.interp.prompt_term import PromptTerm
from promptbias.model.templates import fill, tokenize


@torch.no_grad()
def test_the_result_is_a_stock_clip_with_m_in_its_output_biases(tuned, sharp_clip, images):
    model = tuned()
    m = {b.name: PromptTerm(b).stream([batch_of(b, images)]).bias() for b in branches_of(model)}
    labels = torch.arange(len(images)) % len(CLASSES)
    tokens, before = base_tokens(model), copy.deepcopy(sharp_clip.state_dict())
    result = biased_clip_outcomes(sharp_clip, m, tokens, zip(images.split(4), labels.split(4)))
    assert all(torch.equal(p, before[key]) for key, p in sharp_clip.state_dict().items())  # the given CLIP is unchanged
    right = lambda: (sharp_clip(images, tokens)[0].argmax(-1) == labels).tolist()  # noqa: E731
    expected = {"neither branch": right()}
    for i, block in enumerate(sharp_clip.visual.transformer.resblocks):
        block.attn.out_proj.bias += m["vision"][i]
    expected["vision branch"] = right()
    for i, block in enumerate(sharp_clip.transformer.resblocks):
        block.attn.out_proj.bias += m["text"][i]
    expected["both branches"] = right()
    for i, block in enumerate(sharp_clip.visual.transformer.resblocks):
        block.attn.out_proj.bias -= m["vision"][i]
    expected["text branch"] = right()
    assert {name: correct.tolist() for name, correct in result.items()} == expected


@pytest.mark.parametrize(
    "method, template",
    [
        (deep_prompts(), "a photo of a {}."),
        (deep_prompts(text_prompts=6), "a photo of a {}."),
        (vision_prompts(), "a photo of a {}."),
    ],
    ids=str,
)
def test_the_texts_are_those_of_the_untouched_clip(tuned, method, template):
    model = tuned(method)
    assert torch.equal(base_tokens(model), tokenize(fill(template, CLASSES), CLASSES, model.context_length))
