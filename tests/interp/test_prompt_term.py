"""The mean of what prompts contribute, and its constancy, against plain means."""

import pytest
import torch
from prompted_clips import M, batch_of, deep_prompts, vision_prompts

from promptbias.interp.branches import VisionBranch, branches_of, branches_with_prompts
from promptbias.interp.prompt_term import PromptTerm
from promptbias.model.adapter import Adapter


@pytest.mark.parametrize("method", [deep_prompts(), vision_prompts()], ids=str)
@torch.no_grad()
def test_mean_of_u_is_a_plain_mean(tuned, images, method):
    """Over all images and [cls] + patches, and over all classes and positions after the prompts up to EOS."""
    model = tuned(method)
    for branch in branches_with_prompts(model):
        kept = []

        def on_parts(i, parts, kept=kept, branch=branch):
            kept.append(parts.u.transpose(1, 2).flatten(2) @ branch.tower.blocks[i].attn.out_proj.weight.T)

        batch = batch_of(branch, images)
        branch.features(batch, on_parts)
        term = PromptTerm(branch).stream(batch.split(2))
        for i, u in enumerate(kept):
            if branch.name == "vision":
                rows = u.flatten(0, 1)
                assert len(rows) == len(images) * (1 + M)
            else:
                eos = model.text.tokens.argmax(-1)
                T = branch.adapter.prompt_count
                rows = torch.cat([u[k, 1 : int(end) + 1 - T] for k, end in enumerate(eos)])
            assert torch.allclose(term.bias()[i], rows.mean(0), atol=1e-5)
            constancy = rows.mean(0).square().sum() / rows.square().sum(-1).mean()
            assert torch.allclose(term.constancy()[i, 0].float(), constancy, atol=1e-5)
            assert 0 <= constancy <= 1


@torch.no_grad()
def test_constancy_is_1_for_a_constant_u(tuned, images):
    class Constant(PromptTerm):
        def on_parts(self, i, parts):
            return super().on_parts(i, parts._replace(u=torch.ones_like(parts.u)))

    found = Constant(VisionBranch(tuned())).stream(images.split(2)).constancy()
    assert torch.allclose(found, torch.ones_like(found), atol=1e-6)


def test_without_prompts_the_term_is_zero(tuned, images):
    _, text = branches_of(tuned(vision_prompts()))
    term = PromptTerm(text).stream([batch_of(text, images)])
    assert not term.bias().any() and not term.mean_u().any()
    assert len(term.constancy()) == len(text.tower.blocks)


def test_an_adapted_output_projection_is_the_one_that_projects_u(tuned, images):
    class Doubled(Adapter):
        attaches_to = ("attn.out_proj.weight",)

        def parameter(self, name, i, frozen):
            return 2 * frozen

    model = tuned()
    branch = VisionBranch(model)
    term = PromptTerm(branch).stream([images])
    once = term.bias()
    branch.adapter = Doubled()
    assert torch.allclose(term.bias(), 2 * once)
