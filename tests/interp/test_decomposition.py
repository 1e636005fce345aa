"""Attention decomposed into inputs and prompts, against the formulas written out, on small random CLIPs."""

import pytest
import torch
import torch.nn.functional as F
from prompted_clips import L, batch_of, deep_prompts, vision_prompts

from promptbias.interp.branches import BASE, VisionBranch, branches_of, branches_with_prompts
from promptbias.interp.cache import capture
from promptbias.interp.prompt_term import PromptShares
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.utils.errors import UserError


def plain_update(block, x, prompts, row, causal):
    """eqs. 17-33 written out for one row of tokens x (N, D): the attention update, (1 - π) a v W_O, u W_O, and b_O."""
    attn, D = block.attn, x.shape[-1]
    d = D // attn.num_heads
    W, b = attn.in_proj_weight, attn.in_proj_bias
    h = F.layer_norm(x, (D,), block.ln_1.weight, block.ln_1.bias)
    visible = [j for j in range(len(x)) if not (causal and j > row)]
    update, from_inputs, from_prompts = torch.zeros(D), torch.zeros(D), torch.zeros(D)
    for head in range(attn.num_heads):
        at = slice(head * d, head * d + d)
        q, k, v = (h @ W[n * D : (n + 1) * D].T[:, at] + b[n * D : (n + 1) * D][at] for n in range(3))
        W_O = attn.out_proj.weight[:, at].T  # (d, D)
        e = {j: torch.exp(q[row] @ k[j] / d**0.5) for j in visible}
        total = sum(e.values())
        inputs = sum(e[j] for j in visible if j not in prompts)
        pi = 1 - inputs / total
        for j in visible:
            update = update + e[j] / total * v[j] @ W_O
            if j in prompts:
                from_prompts = from_prompts + e[j] / total * v[j] @ W_O
            else:
                from_inputs = from_inputs + (1 - pi) * e[j] / inputs * v[j] @ W_O
    return update + attn.out_proj.bias, from_inputs, from_prompts, attn.out_proj.bias


@pytest.mark.parametrize("kind", ["vision", "text"])
@torch.no_grad()
def test_decomposition_adds_up_and_equals_the_formulas(tuned, images, kind):
    branch = branches_of(tuned())[kind == "text"]
    tokens, found = {}, {}

    def on_parts(i, parts):
        W_O = branch.tower.blocks[i].attn.out_proj.weight.T
        project = lambda z: z.transpose(1, 2).flatten(2) @ W_O  # noqa: E731
        found[i] = project((1 - parts.prompt_mass) * (parts.a @ parts.v)), project(parts.u), parts.a

    with branch.tower.hooked({"blocks.*.resid_pre": lambda x, point: tokens.update({point.block: x})}):
        branch.features(batch_of(branch, images)[:2], on_parts)
    prompts = range(branch.adapter.prompts_at.start, branch.adapter.prompts_at.stop)
    assert sorted(found) == list(range(L))
    for i, (own, u, a) in found.items():
        rows = [r for r in range(tokens[i].shape[1]) if r not in prompts]
        assert torch.allclose(a.sum(-1), torch.ones(()), atol=1e-5)
        for position in (0, 1, len(rows) - 1):
            block, causal = branch.tower.blocks[i], kind == "text"
            update, from_inputs, from_prompts, b = plain_update(block, tokens[i][1], prompts, rows[position], causal)
            assert torch.allclose(own[1, position], from_inputs, atol=1e-4)
            assert torch.allclose(u[1, position], from_prompts, atol=1e-4)
            assert torch.allclose(own[1, position] + u[1, position] + b, update, atol=1e-4)


@torch.no_grad()
def test_only_what_a_hook_returns_is_replaced_and_only_for_inputs(tuned, images):
    for branch in branches_of(tuned()):
        batch, output = batch_of(branch, images), branch.tower.blocks[0].attn.out_proj
        untouched = branch.features(batch)
        assert torch.allclose(branch.features(batch, lambda i, parts: None), untouched, atol=1e-5)
        assert torch.allclose(branch.features(batch, lambda i, parts: parts.full), untouched, atol=1e-5)
        with capture(branch.tower, "blocks.0.attn.out") as intact:
            branch.features(batch)
        with capture(branch.tower, "blocks.0.attn.out") as ablated:
            branch.features(batch, lambda i, parts: torch.zeros_like(parts.full))
        before, after = intact["blocks.0.attn.out"], ablated["blocks.0.attn.out"]
        is_prompt = torch.zeros(before.shape[1], dtype=torch.bool)
        is_prompt[branch.adapter.prompts_at] = True
        assert torch.allclose(after[:, is_prompt], before[:, is_prompt], atol=1e-5)
        assert torch.equal(after[:, ~is_prompt], output.bias.expand_as(after[:, ~is_prompt]))


def test_first_vision_block_only_rescales_attention_among_inputs(tuned, images):
    branch = VisionBranch(tuned())
    ours, base = branch.attention_among_inputs(images), branch.attention_among_inputs(images, BASE)
    assert torch.allclose(ours[0], base[0], atol=1e-6)
    assert (ours[1] - base[1]).abs().max() > 1e-3
    means = PromptShares(branch).stream([images]).means()
    assert means["moved"][0].max() < 1e-5 < 1e-3 < means["moved"][1:].min()


@pytest.mark.parametrize("method", [deep_prompts(), deep_prompts(0, 1), vision_prompts(), vision_prompts(1)], ids=str)
def test_shares_are_independent_of_batch_size_and_between_0_and_1(tuned, images, method):
    for branch in branches_of(tuned(method)):
        batch = batch_of(branch, images)
        whole, parts = PromptShares(branch).stream([batch]), PromptShares(branch).stream(batch.split(2))
        assert torch.equal(whole.count, parts.count)
        assert whole.error < 1e-5
        for name, mean in whole.means().items():
            assert torch.allclose(mean, parts.means()[name], atol=1e-6)
            assert mean.min() >= 0 and mean.max() <= 1
            if not branch.has_prompts:
                assert mean.max() < 1e-6


def test_branches_with_prompts(tuned):
    names = lambda method: [branch.name for branch in branches_with_prompts(tuned(method))]  # noqa: E731
    assert names(deep_prompts()) == ["vision", "text"]
    assert names(deep_prompts(0, 1)) == ["text"]
    assert names(vision_prompts()) == ["vision"]
    with pytest.raises(UserError, match='"bias" has no prompts'):
        branches_with_prompts(tuned(BiasTuningConfig()))
