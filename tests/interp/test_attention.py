"""Statistics of attention and maps, against plain loops over heads and tokens."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interp_fixtures import CLASSES, H, L, M, V

from promptbias.interp.attention import (
    attention_distance,
    attention_entropy,
    attention_means,
    eos_attention,
    pixel_distances,
)
from promptbias.interp.cache import PATTERN, RESID_PRE, capture
from promptbias.interp.maps import cls_attention, min_max, prompt_distances, upsample
from promptbias.interp.statistics import Means, column_masks, correlation, rank_correlation
from promptbias.interp.token_layout import text_columns


def test_attention_distance_is_the_weighted_mean_over_patches():
    torch.manual_seed(0)
    A = torch.rand(2, H, 1 + 4 + 2, 1 + 4 + 2).softmax(-1)
    d = pixel_distances(2, 8.0)
    assert d[0].tolist() == pytest.approx([0, 8, 8, 8 * math.sqrt(2)])
    for b in range(2):
        for h in range(H):
            without, with_prompts = [], []
            for i in range(1, 5):
                numerator = sum(float(A[b, h, i, j] * d[i - 1, j - 1]) for j in range(1, 5))
                without.append(numerator / sum(float(A[b, h, i, j]) for j in range(1, 5)))
                with_prompts.append(numerator / sum(float(A[b, h, i, j]) for j in range(1, 7)))
            assert float(attention_distance(A, d)[b, h]) == pytest.approx(sum(without) / 4, rel=1e-5)
            assert float(attention_distance(A, d, slice(5, 7))[b, h]) == pytest.approx(sum(with_prompts) / 4, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(side=st.integers(1, 6), patch=st.sampled_from([4.0, 8.0, 16.0]), prompts=st.integers(0, 5))
def test_uniform_attention_has_its_closed_form(side, patch, prompts):
    patches = side * side
    N = 1 + patches + prompts
    A = torch.full((1, 1, N, N), 1 / N)
    centres = [(r, c) for r in range(side) for c in range(side)]
    mean = sum(math.dist(a, b) for a in centres for b in centres) * patch / patches**2
    d = pixel_distances(side, patch)
    assert float(attention_distance(A, d)) == pytest.approx(mean, rel=1e-5, abs=1e-6)
    with_prompts = float(attention_distance(A, d, slice(1 + patches, N)))
    assert with_prompts == pytest.approx(mean * patches / (patches + prompts), rel=1e-5, abs=1e-6)
    inputs = slice(0, 1 + patches)
    assert float(attention_entropy(A, inputs, slice(0, N))) == pytest.approx(math.log(N), rel=1e-5)
    assert float(attention_entropy(A, slice(0, 1), inputs)) == pytest.approx(math.log(1 + patches), rel=1e-5)


def test_entropy_drops_prompts_and_renormalises():
    torch.manual_seed(0)
    A = (4 * torch.rand(2, H, 6, 6)).softmax(-1)
    A[0, 0, 0] = torch.tensor([1.0, 0, 0, 0, 0, 0])
    for b in range(2):
        for h in range(H):
            total = 0.0
            for i in range(4):
                kept = [float(A[b, h, i, j]) for j in range(4)]
                total -= sum(a / sum(kept) * math.log(a / sum(kept)) for a in kept if a > 0)
            assert float(attention_entropy(A, slice(0, 4), slice(0, 4))[b, h]) == pytest.approx(total / 4, rel=1e-5)
    assert float(attention_entropy(A, slice(0, 1), slice(0, 6))[0, 0]) == 0


@pytest.mark.parametrize("kind", ["deep", "bias"])
def test_eos_attention_adds_up_and_is_a_mean_over_classes(models, kind):
    model = models[kind]
    mass = eos_attention(model, batch_size=2)
    np.testing.assert_allclose(sum(mass.values()), np.ones((L, H)), atol=1e-5)
    expected = np.zeros((L, H))
    for k in range(len(CLASSES)):
        columns = text_columns(model, k)
        with capture(model.text) as cache:
            model.text_features(torch.tensor([k]))
        for i, A in cache.by_block(PATTERN).items():
            expected[i] += A[0, :, columns["EOS"].start, columns["class"]].sum(-1).numpy() / len(CLASSES)
    np.testing.assert_allclose(mass["class"], expected, atol=1e-6)


def test_prompt_distances_are_euclidean(deep, batch):
    with capture(deep.vision, f"blocks.1.{RESID_PRE}") as cache:
        deep.image_features(batch)
    x = cache[f"blocks.1.{RESID_PRE}"]
    expected = torch.tensor(
        [
            [[math.dist(x[b, 17 + v].tolist(), x[b, 1 + j].tolist()) for j in range(M)] for v in range(V)]
            for b in range(2)
        ]
    )
    torch.testing.assert_close(prompt_distances(x, deep)[:2], expected, rtol=1e-3, atol=1e-3)
    maps = min_max(upsample(prompt_distances(x, deep), 32))
    assert maps.shape == (4, V, 32, 32)
    assert torch.equal(maps.amin((-2, -1)), torch.zeros(4, V)) and torch.allclose(maps.amax((-2, -1)), torch.ones(4, V))


@settings(max_examples=20, deadline=None)
@given(values=st.lists(st.integers(-9, 9), min_size=2, max_size=20), cut=st.integers(1, 19))
def test_running_means_and_correlations(values, cut):
    x = torch.tensor(values, dtype=torch.float32)
    means = Means()
    for part in (x[:cut], x[cut:]):
        means.add("x", part)
    assert float(means["x"]) == pytest.approx(float(x.double().mean()), abs=1e-9)
    noise = torch.linspace(0, 1, len(x)) ** 2
    if len(set(values)) > 1:
        assert float(correlation(x, noise)) == pytest.approx(
            np.corrcoef(values, noise.double().numpy())[0, 1], abs=1e-6
        )
        assert float(rank_correlation(x, x**3)) == pytest.approx(1, abs=1e-6)
    assert float(correlation(torch.ones(5), torch.arange(5.0))) == 0


def test_masks_cover_the_named_columns(models):
    columns = [text_columns(models["bias"], k) for k in range(3)]
    masks = column_masks(columns, 77)
    assert list(masks) == list(columns[0])
    covered = sum(masks.values())
    for k, ranges in enumerate(columns):
        assert covered[k, : ranges["EOS"].stop].eq(1).all() and not covered[k, ranges["EOS"].stop :].any()


def test_means_over_images_are_those_of_one_pass(deep, batch):
    measures = {"cls": lambda A: A[:, :, 0, 0], "entropy": lambda A: attention_entropy(A, slice(0, 1), slice(0, 17))}
    found = attention_means(deep, batch.split(3), measures)
    with capture(deep.vision) as cache:
        deep.image_features(batch)
    for i, A in cache.by_block(PATTERN).items():
        for name, measure in measures.items():
            assert found[name].shape == (L, H)
            np.testing.assert_allclose(found[name][i], measure(A).mean(0), rtol=1e-5)


def test_cls_attention_is_the_mean_of_the_named_heads(deep):
    A = torch.rand(2, H, 20, 20)
    torch.testing.assert_close(cls_attention(A, deep, [1]), A[:, 1, 0, 1:17])
    torch.testing.assert_close(cls_attention(A, deep, [0, 1]), (A[:, 0, 0, 1:17] + A[:, 1, 0, 1:17]) / 2)
