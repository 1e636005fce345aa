"""Controls of the prompt term against the same computations written out, on small random CLIPs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prompted_clips import CLASSES, batch_of, deep_prompts, vision_prompts
from test_ablations import image_attention

from promptbias.interp.ablations import VARIANTS, variant_features
from promptbias.interp.branches import VisionBranch, branches_of
from promptbias.interp.controls import GRID, SHAPE, Control, controlled_features, controlled_outcomes, position_means
from promptbias.interp.paired import bootstrap_means, interval
from promptbias.interp.prompt_term import PromptTerm


def control(u, mass, rows="all rows"):
    return GRID.index(Control(u, mass, rows))


def means_of(branch, images):
    return position_means(branch, [(images, None)])


@pytest.mark.parametrize("method", [deep_prompts(), deep_prompts(1, 2), deep_prompts(0, 2), vision_prompts()], ids=str)
def test_the_corners_of_the_grid_are_the_ablations(tuned, images, method):
    for branch in branches_of(tuned(method)):
        batch = batch_of(branch, images)
        ours = controlled_features(branch, batch, means_of(branch, images))
        if branch.has_prompts:
            ablated = variant_features(branch, batch, PromptTerm(branch).stream([batch]).mean_u())
            for name, cell in {
                "full": control("free", "free"),
                "no prompt values": control("removed", "free"),
                "no rescaling": control("free", "removed"),
                "mean ablation": control("one mean", "removed"),
                "zero ablation": control("removed", "removed"),
            }.items():
                torch.testing.assert_close(ours[cell], ablated[list(VARIANTS).index(name)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", ["all rows", "readout row", "other rows"])
@torch.no_grad()
def test_means_per_position(tuned, sharp_clip, images, rows):
    """u and π at their mean over images, position by position; rows outside gather as if there were no prompts."""
    model = tuned()
    ours = controlled_features(VisionBranch(model), images, means_of(VisionBranch(model), images))
    visual, prompts = sharp_clip.visual, model.adapters.vision.prompts
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    full = own = visual.ln_pre(x)
    acts = torch.ones(x.shape[1], dtype=torch.bool)
    acts[0], acts[1:] = rows != "other rows", rows != "readout row"
    for block, p in zip(visual.transformer.resblocks, [visual.ln_pre(prompts[0]), *prompts[1:]]):
        a_full, rescaled_full, v_full, u_full = image_attention(block, full, p)
        a, _, v, _ = image_attention(block, own, p)
        pi = 1 - rescaled_full.sum(-1, keepdim=True).mean(0)  # (H, n, 1)
        gathered = torch.einsum("bhij,bjhd->bhid", a, v)
        held = (1 - pi) * gathered + u_full.mean(0).transpose(0, 1)
        held = torch.where(acts[:, None], held, gathered).transpose(1, 2)  # (B, n, H, d)
        intact = torch.einsum("bhij,bjhd->bihd", rescaled_full, v_full) + u_full
        x = torch.stack([full, own]) + block.attn.out_proj(torch.stack([intact, held]).flatten(3))
        full, own = x + block.mlp(block.ln_2(x))
    expected = F.normalize(visual.ln_post(own[:, 0]) @ visual.proj, dim=-1)
    cell = control("mean per position", "mean per position", rows)
    torch.testing.assert_close(ours[cell], expected, atol=1e-4, rtol=0)


def test_constancy_per_position_is_one_for_one_image_and_falls_with_more(tuned, images):
    branch = VisionBranch(tuned())
    alone = means_of(branch, images[:1].expand(3, -1, -1, -1)).constancy()
    torch.testing.assert_close(alone, torch.ones_like(alone))
    several, pooled = means_of(branch, images).constancy(), PromptTerm(branch).stream([images]).constancy()[:, 0]
    assert (several < 0.99).all() and (several > pooled).all()


def test_outcomes_do_not_depend_on_the_batch_size(tuned, images):
    model, labels = tuned(), torch.arange(6) % len(CLASSES)
    means = {branch.name: means_of(branch, images) for branch in branches_of(model)}
    whole = controlled_outcomes(model, means, [(images, labels)])
    assert whole.shape == (3, *SHAPE, 6)
    assert torch.equal(whole, controlled_outcomes(model, means, zip(images.split(1), labels.split(1))))
    assert torch.equal(whole[:, 0, 0, 0], (model.logits(images).argmax(-1) == labels).expand(3, -1))


def test_a_paired_interval_knows_that_the_images_are_the_same():
    """A model that is right wherever another is, and on five images more."""
    right = np.random.default_rng(0).random(400) < 0.6
    better = right.copy()
    better[np.flatnonzero(~right)[:5]] = True
    low, high = interval(np.stack([right, better]), lambda means: means[:, 1] - means[:, 0])
    assert 0 < low < 5 / 400 < high < 0.03
    # Binomial: 5 of 400 in each draw, so that 2.5 % of the draws have 1 or fewer, and 2.5 % have 10 or more.
    assert 400 * low == pytest.approx(1, abs=1) and 400 * high == pytest.approx(10, abs=1)


def test_bootstrap_means_are_means_of_the_same_draw():
    outcomes = np.stack([np.arange(7.0), 2 * np.arange(7.0)])
    means = bootstrap_means(outcomes, resamples=250)
    assert means.shape == (250, 2) and np.allclose(means[:, 1], 2 * means[:, 0])
    assert means[:, 0].mean() == pytest.approx(3, abs=0.2) and means[:, 0].std() == pytest.approx(2 / 7**0.5, rel=0.15)
