"""The figures about what was tuned: doses, shifts of features, lengths of biases, sinks, and maps over the picture."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prompted_clips import CLASSES, deep_prompts, tuned_at_random, vision_prompts

from promptbias.analysis import bias_norms, dose, feature_shift, overlay, sinks
from promptbias.interp.cache import capture
from promptbias.interp.relevancy import relevancy
from promptbias.model.biases import SITES
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.zeroshot import ZeroshotConfig
from promptbias.utils.errors import UserError

METHODS = [deep_prompts(), vision_prompts(1), BiasTuningConfig()]
NO_OPTIONS = argparse.Namespace()


@pytest.fixture
def on_random_images(tuned, sharp_clip, images):
    """on_random_images(method): what these figures need of a Comparison, on six images; "tuned" is of that method."""
    labels = torch.arange(len(images)) % len(CLASSES)

    def make(method):
        model, plain = tuned(method), tuned_at_random(sharp_clip, ZeroshotConfig())
        models = {"zero-shot CLIP": plain, "tuned": model}
        batches = lambda what, split="test": zip(images.split(4), labels.split(4))  # noqa: E731
        return SimpleNamespace(tuned=model, plain=plain, models=models, label="tuned", batches=batches)

    return make


@pytest.mark.parametrize("figure", [dose, feature_shift, sinks], ids=lambda module: module.__name__.split(".")[-1])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_figures_have_plots_numbers_and_a_description(on_random_images, figure, method):
    result = figure.run(on_random_images(method), NO_OPTIONS)
    assert result.figures and result.arrays and result.how_to_read and result.found is not None
    assert result.headlines and all(np.isfinite(value) for _, value in result.headlines)
    assert len(dict(result.headlines)) == len(result.headlines)


def test_doses_are_compared_with_the_tuned_model_image_by_image(on_random_images):
    result = dose.run(on_random_images(deep_prompts()), NO_OPTIONS)
    numbers, correct = dict(result.headlines), result.arrays["tuned: correct"]
    doses = result.arrays["doses"].tolist()
    assert correct.shape == result.arrays["tuned: margin"].shape == (3, len(doses), 6) and doses[0] == 0
    for at, branch in enumerate(("vision branch", "text branch", "both branches")):
        difference = correct[at, 0] - correct[at, doses.index(1)]
        change = numbers[f"tuned, {branch}, α = 0: change from α = 1, points"]
        assert change == pytest.approx(difference.mean())
        low, high = change.interval
        assert difference.min() <= low <= change <= high <= difference.max()
        margin = numbers[f"tuned, {branch}, α = 2: margin in logits"]
        assert margin == pytest.approx(result.arrays["tuned: margin"][at, -1].mean())
    assert not any("α = 0.25" in what for what in numbers)


def test_shares_of_the_gain_are_given_only_where_there_is_a_gain():
    """Tuned image features right on all images, shifted ones on half of those that plain ones miss."""
    plain = np.array([True] * 4 + [False] * 16)
    half = plain | (np.arange(20) % 2 == 0)
    correct = np.stack([np.stack([row] * 3) for row in (plain, half, np.ones(20, bool))])
    found = feature_shift.FeatureShift({"a": correct, "b": correct[[2, 1, 0]]}, {"a": {}, "b": {}}, {})
    numbers = dict(feature_shift.headlines(found))
    share = numbers["a, image mean shift, text plain: share of the gain"]
    assert share == pytest.approx((half.mean() - plain.mean()) / (1 - plain.mean()))
    low, high = share.interval
    assert 0.2 < low < share < high < 0.8
    assert numbers["a, image tuned, text tuned: share of the gain"] == 1
    assert not any(what.startswith("b,") and "share" in what for what in numbers)
    assert numbers["b, image tuned, text plain: change from zero-shot CLIP, points"] == pytest.approx(-80)


def test_lengths_of_biases_are_shown_for_the_runs_that_have_some(on_random_images):
    comparison = on_random_images(BiasTuningConfig(sites=SITES))
    result = bias_norms.run(comparison, NO_OPTIONS)
    expected = float(comparison.tuned.adapters.vision.bias[0].norm())
    assert dict(result.headlines)["tuned, vision, block: |b| in block 1"] == pytest.approx(expected)
    assert {"tuned: text, q", "tuned: vision, ln_1.weight"} <= set(result.arrays)
    with pytest.raises(UserError, match='"tuned" trains no biases in the blocks; give a run of BiasTuning'):
        bias_norms.run(on_random_images(deep_prompts()), NO_OPTIONS)


def test_the_rank_is_shown_where_there_are_prompts(on_random_images):
    assert list(sinks.run(on_random_images(BiasTuningConfig()), NO_OPTIONS).figures) == ["sinks"]
    result = sinks.run(on_random_images(vision_prompts()), NO_OPTIONS)
    assert list(result.figures) == ["sinks", "sinks-rank"] and len(result.figures["sinks-rank"].axes) == 1
    assert "attention received, vision, prompts, tuned: mean over blocks" in dict(result.headlines)


# ---- maps over the picture


def test_maps_over_the_picture_are_relevancy_and_attention(comparison):
    result = overlay.run(comparison, argparse.Namespace(images=[5, 0]))
    assert list(result.figures) == ["overlay-relevancy", "overlay-attention"]
    assert [ax.get_title() for ax in result.figures["overlay-relevancy"].axes[:4]] == [
        *("picture", "CLIP", "deep prompts 3+4", "difference")
    ]
    image, label = comparison.image(5)
    M = comparison.plain.vision.patches
    for name, model in (("plain", comparison.plain), ("tuned", comparison.tuned)):
        patches = relevancy(model, image, torch.tensor([label])).vision[0, :M]
        expected = (patches / patches.mean()).reshape(4, 4)
        np.testing.assert_allclose(result.arrays[f"image 5: relevancy, {name}"], expected, rtol=1e-4)
        with capture(model.vision, "blocks.2.attn.pattern") as cache:
            model.image_features(image)
        patches = cache["blocks.2.attn.pattern"][0].mean(0)[0, 1 : 1 + M]
        expected = (patches / patches.mean()).reshape(4, 4)
        np.testing.assert_allclose(result.arrays[f"image 5: attention, {name}"], expected, rtol=1e-4)
    correlated = np.corrcoef(*(result.arrays[f"image 0: attention, {name}"].ravel() for name in ("plain", "tuned")))
    numbers = dict(result.headlines)
    assert numbers["correlation of CLIP's attention with the tuned run's, image 0"] == pytest.approx(correlated[0, 1])


def test_images_are_chosen_and_checked(comparison):
    assert overlay.evenly(range(12)) == [0, 3, 6, 9] and overlay.evenly([4, 9]) == [4, 9]
    assert overlay.compute(comparison).indices == [0, 3, 6, 9]
    with pytest.raises(UserError, match="there is no test image 12"):
        overlay.run(comparison, argparse.Namespace(images=[12]))
