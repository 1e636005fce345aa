"""The figures about what prompts do, and about faithfulness, on a few random images."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prompted_clips import CLASSES, deep_prompts, tuned_at_random, vision_prompts

from promptbias.analysis import ablations, constancy, controls, decompose, faithfulness, mean_to_bias
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
        of = dict(indices=range(len(images)), few_shot=range(len(images)), shared={})
        return SimpleNamespace(tuned=model, plain=plain, models=models, label="tuned", batches=batches, **of)

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
    assert np.array_equal(found.biased["text branch"], found.biased["neither branch"])
    assert np.array_equal(found.biased["both branches"], found.biased["vision branch"])
    assert found.template == "a photo of a {}."


def test_faithfulness_takes_a_run_without_prompts(comparison):
    result = faithfulness.run(comparison(BiasTuningConfig()), argparse.Namespace())
    assert all(0 <= value <= 100 for what, value in result.headlines if "area, mean accuracy" in what)


def test_differences_are_paired_and_outcomes_are_kept(comparison):
    """Against the outcomes in the arrays, and a bootstrap written out."""
    result = ablations.run(comparison(deep_prompts()), argparse.Namespace())
    correct = result.arrays["correct"]
    assert correct.shape == (3, 7, 6) and np.allclose(result.arrays["accuracy"], correct.mean(-1))
    change = dict(result.headlines)["zero ablation, vision branch: change from full, points"]
    difference = 100.0 * (correct[0, 4].astype(int) - correct[0, 0])
    draws = np.random.default_rng(1).integers(0, 6, (4000, 6))
    assert change == pytest.approx(difference.mean())
    expected = np.quantile(difference[draws].mean(1), [0.025, 0.975])
    assert change.interval == pytest.approx(expected, abs=100 / 6)
    result = mean_to_bias.run(comparison(deep_prompts()), argparse.Namespace())
    assert result.arrays["correct"].shape == (5, 6) and result.arrays["change_interval"].shape == (5, 2)


def test_faithfulness_shows_both_directions_against_chance(comparison):
    result = faithfulness.run(comparison(deep_prompts()), argparse.Namespace())
    numbers = dict(result.headlines)
    curve = result.arrays["tuned, own class, most relevant first"]
    outcomes = result.arrays["tuned, own class, most relevant first, correct"]
    assert outcomes.shape == (11, 6) and np.allclose(curve, 100 * outcomes.mean(1))
    trapezoids = lambda name: float(np.mean((result.arrays[name][1:] + result.arrays[name][:-1]) / 2))  # noqa: E731
    most, least, random = (
        trapezoids(f"tuned, {name}")
        for name in ("own class, most relevant first", "own class, least relevant first", "random order")
    )
    what = "tuned, relevancy, own class"
    assert numbers[f"{what}, most relevant first: area against chance, points"] == pytest.approx(most - random)
    assert numbers[f"{what}, least relevant first: area against chance, points"] == pytest.approx(least - random)
    assert numbers[f"{what}: gap between the two areas"] == pytest.approx(least - most)
    attention = trapezoids("tuned, attention, most relevant first")
    better = f"{what} minus attention of [cls], last block, most relevant first (lower is better): area, points"
    assert numbers[better] == pytest.approx(most - attention)
    low, high = numbers[better].interval
    assert low <= numbers[better] <= high


def test_controls_print_paired_intervals(comparison):
    """The shares are left out where the gain's own interval holds 0."""
    result = controls.run(comparison(deep_prompts()), argparse.Namespace())
    numbers, correct = dict(result.headlines), result.arrays["correct"].astype(float)
    assert correct.shape == (3, 4, 3, 3, 6)
    change = numbers["vision branch, no u, no π, in all rows: change from the intact model, points"]
    assert change == pytest.approx(100 * (correct[0, 3, 2, 0] - correct[0, 0, 0, 0]).mean())
    low, high = change.interval
    assert low <= change <= high
    assert "vision branch, u free, π free, in all rows: change from the intact model, points" not in numbers
    shares = {what for what in numbers if what.endswith("share of the gain kept")}
    assert len(shares) == int((~np.isnan(result.arrays["kept"])).sum())
