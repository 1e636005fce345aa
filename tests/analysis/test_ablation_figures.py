"""The figures about what prompts do, and about faithfulness, on a few random images."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prompted_clips import CLASSES, deep_prompts, tuned_at_random, vision_prompts

from promptbias.analysis import ablations, constancy, decompose, faithfulness, mean_to_bias
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.zeroshot import ZeroshotConfig
from promptbias.utils.errors import UserError

ABOUT_PROMPTS = [decompose, ablations, constancy, mean_to_bias]
METHODS = [deep_prompts(), deep_prompts(0, 1), vision_prompts(), vision_prompts(1)]


@pytest.fixture
def comparison(tuned, sharp_clip, images):
    """comparison(method): what these figures need of a Comparison, on six images; "tuned" is of that method."""
    labels = torch.arange(len(images)) % len(CLASSES)

    def make(method):
        model, plain = tuned(method), tuned_at_random(sharp_clip, ZeroshotConfig())
        models = {"zero-shot CLIP": plain, "tuned": model}
        batches = lambda what, split="test": zip(images.split(4), labels.split(4))  # noqa: E731
        return SimpleNamespace(tuned=model, plain=plain, models=models, label="tuned", batches=batches)

    return make


@pytest.mark.parametrize("figure", [*ABOUT_PROMPTS, faithfulness], ids=lambda module: module.__name__.split(".")[-1])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_figures_have_plots_numbers_and_a_description(comparison, figure, method):
    result = figure.run(comparison(method), argparse.Namespace())
    assert result.figures and result.headlines and result.arrays and result.how_to_read
    assert all(np.isfinite(value) for _, value in result.headlines)
    assert all(np.isfinite(array).all() for array in result.arrays.values() if array.dtype.kind == "f")


@pytest.mark.parametrize("figure", ABOUT_PROMPTS, ids=lambda module: module.__name__.split(".")[-1])
def test_a_run_without_prompts_is_refused_in_one_sentence(comparison, figure):
    with pytest.raises(UserError, match='"bias" has no prompts.*--model-dir'):
        figure.run(comparison(BiasTuningConfig()), argparse.Namespace())


def test_only_branches_with_prompts_are_shown(comparison):
    assert ablations.compute(comparison(deep_prompts())).ablated == ["vision", "text", "both"]
    found = ablations.compute(comparison(vision_prompts()))
    assert found.ablated == ["vision"] and not found.m["text"].any()
    assert "Text prompts" not in ablations.describe(found)
    assert list(decompose.compute(comparison(vision_prompts())).shares) == ["vision"]
    assert list(constancy.compute(comparison(deep_prompts(0, 1))).branches) == ["text"]


def test_biases_of_one_branch_leave_the_other_as_it_is(comparison):
    found = mean_to_bias.compute(comparison(vision_prompts()))
    assert found.biased["text branch"] == found.biased["neither branch"]
    assert found.biased["both branches"] == found.biased["vision branch"]
    assert found.template == "a photo of a {}."


def test_faithfulness_takes_a_run_without_prompts(comparison):
    result = faithfulness.run(comparison(BiasTuningConfig()), argparse.Namespace())
    assert all(0 <= value <= 100 for what, value in result.headlines if "area," in what)
