"""The figure about the foreground, on small runs whose images are given masks."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from promptbias.analysis import comparison as comparisons
from promptbias.analysis import foreground
from promptbias.analysis.comparison import ZERO_SHOT, Comparison
from promptbias.analysis.estimates import Estimate
from promptbias.interp.cache import PATTERN, capture
from promptbias.interp.relevancy import relevancy
from promptbias.utils.errors import UserError


def mask_of(path):
    """A mask of 32 x 32 pixels that differs from image to image."""
    mask = np.zeros((32, 32))
    mask[: 8 * (1 + int(os.path.basename(path)[0]) % 3), 8:] = 1
    return mask


@pytest.fixture
def masked(runs, monkeypatch):
    monkeypatch.setattr(comparisons, "mask_reader", lambda dataset, folder: mask_of)
    return Comparison(runs["deep"], [runs["bias"]])


def test_shares_are_those_of_the_attention(masked):
    found = foreground.compute(masked)
    model, i = masked.tuned, 5
    image, label = masked.image(i)
    cells = mask_of(masked._data.test[i].impath).reshape(4, 8, 4, 8).mean((1, 3)).flatten()
    assert found.area[i] == pytest.approx(cells.mean(), abs=1e-2)
    with torch.no_grad(), capture(model.vision, f"blocks.*.{PATTERN}") as cache:
        model.image_features(image)
    maps = found.maps[masked.label]
    for block, attention in cache.by_block(PATTERN).items():
        for head in range(2):
            row = attention[0, head, 0, 1:17].numpy()
            assert maps.by_head[i, block, head] == pytest.approx((row * cells).sum() / row.sum(), abs=1e-2)
    shares = {}
    for name in (ZERO_SHOT, masked.label):
        row = relevancy(masked.models[name], image, torch.tensor([label])).vision[0, :16].numpy()
        shares[name] = row / row.sum()
        expected = (shares[name] * cells).sum()
        assert found.maps[name].scores[foreground.RELEVANCY]["share"][i] == pytest.approx(expected, abs=1e-2)
    added = np.maximum(shares[masked.label] - shares[ZERO_SHOT], 0)
    assert maps.scores[foreground.CHANGE]["share"][i] == pytest.approx((added * cells).sum() / added.sum(), abs=2e-2)


def test_masks_are_resized_and_cropped_as_the_images(masked, monkeypatch):
    def wide(path):
        mask = np.zeros((48, 90))
        mask[5:40, 10:50] = 1
        return mask

    monkeypatch.setattr(comparisons, "mask_reader", lambda dataset, folder: wide)
    usual = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32)])
    expected = np.asarray(usual(Image.fromarray((255 * wide("")).astype(np.uint8)))) / 255
    assert np.abs(next(masked.masks()).numpy() - expected).max() < 0.02


def test_the_verdict_is_that_of_the_interval():
    assert foreground.verdict(Estimate(3.0, (1.0, 5.0))).startswith("confirmed (+3.0 points")
    assert foreground.verdict(Estimate(-3.0, (-5.0, -1.0))).startswith("not confirmed, the opposite holds")
    assert foreground.verdict(Estimate(1.0, (-1.0, 3.0))).startswith("undecided")


def test_figure_numbers_and_words(masked):
    found = foreground.compute(masked)
    assert list(foreground.plot(found)) == ["foreground", "foreground-scores"]
    numbers, text = dict(foreground.headlines(found)), foreground.describe(found)
    for label in list(found.maps)[1:]:
        tuned, plain = (found.maps[name].scores["relevancy"]["share"] for name in (label, ZERO_SHOT))
        difference = numbers[f"{label} minus {ZERO_SHOT}, relevancy: share on the foreground, points"]
        assert difference == pytest.approx(100 * np.nanmean(tuned - plain)) and f"“{label}”" in text


def test_images_that_are_all_foreground_are_left_out_and_counted(masked, monkeypatch):
    def all_of_class_0(path):
        return np.ones((32, 32)) if os.path.basename(path)[0] in "03" else mask_of(path)

    monkeypatch.setattr(comparisons, "mask_reader", lambda dataset, folder: all_of_class_0)
    found = foreground.compute(masked)
    left_out = [os.path.basename(item.impath)[0] in "03" for item in masked._data.test]
    assert 0 < sum(left_out) < len(left_out) and np.array_equal(np.isnan(found.area), left_out)
    assert f"Left out: {sum(left_out)} images" in foreground.describe(found)
    assert f"over {len(left_out) - sum(left_out)} test images" in foreground.describe(found)
    assert np.isnan(found.maps[ZERO_SHOT].by_head[left_out]).all()
    assert not np.isnan(dict(foreground.headlines(found))["uniform map: share on the foreground, %"])
    foreground.plot(found)
    monkeypatch.setattr(comparisons, "mask_reader", lambda dataset, folder: lambda path: np.ones((32, 32)))
    with pytest.raises(UserError, match="no mask of these images shows both"):
        foreground.compute(masked)


def test_a_dataset_without_masks_is_one_sentence(comparison):
    with pytest.raises(UserError, match="ImageFolder has no masks of the foreground"):
        foreground.compute(comparison)
