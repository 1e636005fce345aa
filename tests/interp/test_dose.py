"""Doses of what was tuned, against models whose parameters are scaled by hand."""

import copy

import pytest
import torch
from prompted_clips import CLASSES, batch_of, deep_prompts, vision_prompts

from promptbias.interp.ablations import VARIANTS, variant_features
from promptbias.interp.branches import branches_of
from promptbias.interp.dose import DOSES, dose_outcomes, margins, scaled_features
from promptbias.model.biases import SITES
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.lora import LoRAConfig

EVERY_BIAS = BiasTuningConfig(sites=tuple(site for site in SITES if site != "features"))


@pytest.mark.parametrize("method", [BiasTuningConfig(), EVERY_BIAS], ids=["block", "every site"])
@pytest.mark.parametrize("dose", [0.0, 0.75, 2.0])
@torch.no_grad()
def test_a_dose_of_biases_is_the_biases_times_the_dose(tuned, images, method, dose):
    model = tuned(method)
    scaled = copy.deepcopy(model)
    for parameter in scaled.adapters.parameters():
        parameter *= dose
    for ours, expected in zip(branches_of(model), branches_of(scaled)):
        batch = batch_of(ours, images)
        torch.testing.assert_close(scaled_features(ours, batch, dose), expected.features(batch), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_dose_of_low_rank_changes_scales_their_second_factor(tuned, images):
    model = tuned(LoRAConfig(weights=("q", "v", "o"), dropout=0.0))
    scaled = copy.deepcopy(model)
    for name, parameter in scaled.adapters.named_parameters():
        if "B" in name.split("."):
            parameter *= 0.5
    vision, expected = branches_of(model)[0], branches_of(scaled)[0]
    found = scaled_features(vision, images, 0.5)
    assert (found - vision.features(images)).abs().max() > 1e-3
    torch.testing.assert_close(found, expected.features(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [deep_prompts(), deep_prompts(1, 2), vision_prompts()], ids=str)
def test_prompts_at_dose_1_are_intact_and_at_0_ablated(tuned, images, method):
    for branch in branches_of(tuned(method)):
        batch = batch_of(branch, images)
        found = scaled_features(branch, batch, 1.0)
        torch.testing.assert_close(found, branch.features(batch), atol=1e-6, rtol=0)
        if branch.has_prompts:
            m = torch.zeros(len(branch.tower.blocks), branch.tower.width)
            ablated = variant_features(branch, batch, m)[list(VARIANTS).index("zero ablation")]
            torch.testing.assert_close(scaled_features(branch, batch, 0.0), ablated, atol=1e-6, rtol=0)


def test_prompts_between_are_a_mixture_of_what_is_gathered(tuned, images):
    vision = branches_of(tuned())[0]

    def halfway(i, parts):
        gathered = parts.a @ parts.v
        return gathered + 0.5 * ((1 - parts.prompt_mass) * gathered + parts.u - gathered)

    found = scaled_features(vision, images, 0.5)
    torch.testing.assert_close(found, vision.features(images, halfway), atol=1e-5, rtol=0)


def test_outcomes_and_margins_of_dose_1_are_the_models_own(tuned, images):
    model, labels = tuned(), torch.arange(6) % len(CLASSES)
    found = dose_outcomes(model, zip(images.split(4), labels.split(4)))
    logits, one = model.logits(images), DOSES.index(1.0)
    assert found.correct.shape == found.margin.shape == (3, len(DOSES), 6)
    for branch in range(3):
        assert torch.equal(found.correct[branch, one], logits.argmax(-1) == labels)
        torch.testing.assert_close(found.margin[branch, one], margins(logits, labels), atol=1e-3, rtol=0)
    assert (found.margin[0, 0] - found.margin[1, 0]).abs().max() > 1e-3


def test_margins():
    logits = torch.tensor([[1.0, 3.0, 2.5], [4.0, 0.0, -1.0]])
    assert margins(logits, torch.tensor([1, 2])).tolist() == [0.5, -5.0]
