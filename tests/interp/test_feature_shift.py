"""The mean shift of features, against plain arithmetic."""

import pytest
import torch
import torch.nn.functional as F
from prompted_clips import CLASSES, deep_prompts, tuned_at_random

from promptbias.interp.feature_shift import kinds_of, shift_of, shift_outcomes, shifts
from promptbias.trainers.zeroshot import ZeroshotConfig

LABELS = torch.arange(6) % len(CLASSES)


@pytest.fixture
def pair(tuned, sharp_clip):
    return tuned_at_random(sharp_clip, ZeroshotConfig()), tuned(deep_prompts())


@torch.no_grad()
def test_outcomes_are_those_of_nine_pairs_of_features(pair, images):
    plain, tuned = pair
    found = shifts(plain, tuned, [(images[:2], None), (images[2:], None)])
    f0, f1 = plain.image_features(images), tuned.image_features(images)
    g0, g1 = plain.text_features(), tuned.text_features()
    torch.testing.assert_close(found["vision"].mean, (f1 - f0).mean(0), atol=1e-6, rtol=0)
    outcomes = shift_outcomes(plain, tuned, found, zip(images.split(4), LABELS.split(4)))
    assert outcomes.shape == (3, 3, 6)
    for i, f in enumerate((f0, F.normalize(f0 + (f1 - f0).mean(0), dim=-1), f1)):
        for j, g in enumerate((g0, F.normalize(g0 + (g1 - g0).mean(0), dim=-1), g1)):
            assert torch.equal(outcomes[i, j], (f @ g.T).argmax(-1) == LABELS)
    assert torch.equal(outcomes[2, 2], tuned.logits(images).argmax(-1) == LABELS)


def test_constancy_is_1_for_one_vector_and_1_over_n_for_unrelated_ones():
    plain = torch.zeros(8, 64)
    assert shift_of(plain, torch.ones(8, 64)).constancy == pytest.approx(1)
    assert shift_of(plain, torch.eye(8, 64)).constancy == pytest.approx(1 / 8)


def test_a_constant_in_the_image_features_is_a_bias_for_each_class():
    torch.manual_seed(0)
    images, texts, shift = torch.randn(5, 16), F.normalize(torch.randn(4, 16), dim=-1), torch.randn(16)
    shifted = kinds_of(images, images, shift)[1]
    expected = (images @ texts.T + shift @ texts.T).argmax(-1)
    assert torch.equal((shifted @ texts.T).argmax(-1), expected)
