"""Relevancy, against whole matrices R of one pair and one block at a time."""

import copy

import numpy as np
import pytest
import torch
from interp_fixtures import LABEL, H, L

from promptbias.interp.attention import eos_attention
from promptbias.interp.cache import PATTERN, ActivationCache, capture, gradients
from promptbias.interp.relevancy import head_means, relevancy, row_of_product, shares
from promptbias.model.adapter import Adapter


def relevancy_of_one_pair(model, image, k):
    """Eqs. 13-16 for one pair, with whole matrices R and one backward pass for each block and branch."""
    rows = []
    for tower, row in ((model.vision, 0), (model.text, int(model.text.tokens[k].argmax()))):
        R = None
        for i in range(len(tower.blocks)):
            name = f"blocks.{i}.{PATTERN}"
            with capture(tower, name, gradient=True) as cache:
                y = model.logit_scale * model.image_features(image[None])[0] @ model.text_features(torch.tensor([k]))[0]
                (gradient,) = gradients(y, cache)
            A, G = cache[name][0], gradient[name][0]
            Abar = torch.zeros(A.shape[1:])
            for head in range(len(A)):
                for a in range(A.shape[1]):
                    for b in range(A.shape[2]):
                        Abar[a, b] += max(0.0, float(G[head, a, b] * A[head, a, b].detach())) / len(A)
            R = torch.eye(len(Abar)) if R is None else R
            R = R + Abar @ R
        rows.append((R, R[row]))
    return rows


@pytest.mark.parametrize("kind", ["deep", "shallow", "bias", "norm", "plain"])
def test_relevancy_of_a_batch_equals_one_pair_and_one_block_at_a_time(models, batch, kind):
    model = models[kind]
    of_vision, of_text = relevancy(model, batch, LABEL)
    for b in (0, 1):
        (R, row_v), (_, row_t) = relevancy_of_one_pair(model, batch[b], int(LABEL[b]))
        torch.testing.assert_close(of_vision[b], row_v[1:], rtol=1e-4, atol=1e-5)
        eos = len(row_t) - 1
        torch.testing.assert_close(of_text[b, :eos], row_t[:eos], rtol=1e-4, atol=1e-5)
        assert not of_text[b, eos:].any()
        if kind == "deep":  # outputs at prompts are discarded: their rows never leave the identity
            torch.testing.assert_close(R[17:], torch.eye(len(R))[17:], rtol=0, atol=0)
        if kind == "shallow":
            assert (R[17:] - torch.eye(len(R))[17:]).any()
        alone = relevancy(model, batch[b : b + 1], LABEL[b : b + 1])
        torch.testing.assert_close(alone[0][0], of_vision[b], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone[1][0], of_text[b, : alone[1].shape[1]], rtol=1e-4, atol=1e-5)


def test_two_blocks_of_deep_prompts_by_hand():
    """Tokens: [cls], one patch, one prompt. A prompt's column sums what its position gave in both blocks."""
    first = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.0, 0.5], [0.0, 0.0, 0.0]])
    second = torch.tensor([[0.0, 0.6, 0.7], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    row = row_of_product([first[None], second[None]], torch.tensor([0]))[0]
    # R_1 = I + first; row [cls] of R_2 = R_1[cls] + 0.6 R_1[patch] + 0.7 R_1[prompt]
    torch.testing.assert_close(row, torch.tensor([1.1 + 0.6 * 0.4, 0.2 + 0.6 * 1.0, 0.3 + 0.6 * 0.5 + 0.7 * 1.0]))


def test_first_block_leaves_the_earlier_ones_out(deep, batch):
    found = relevancy(deep, batch, LABEL, first_block=L - 1)
    name = f"blocks.{L - 1}.{PATTERN}"
    with capture(deep.vision, gradient=True) as cache:
        y = (deep.logit_scale * (deep.image_features(batch) * deep.text_features()[LABEL]).sum(-1)).sum()
        (gradient,) = gradients(y, cache)
    expected = (cache[name] * gradient[name]).clamp(min=0).mean(1)[:, 0, 1:]
    torch.testing.assert_close(found.vision, expected.detach(), rtol=1e-4, atol=1e-6)


def test_relevancy_without_gradient_is_the_identity():
    attention = ActivationCache({f"blocks.{i}.{PATTERN}": torch.rand(2, H, 5, 5) for i in range(L)})
    gradient = ActivationCache({name: torch.zeros_like(A) for name, A in attention.items()})
    maps = head_means(attention, gradient, Adapter())
    row = row_of_product(maps, torch.tensor([0, 3]))
    assert torch.equal(row, torch.eye(5)[[0, 3]])
    assert torch.equal(shares(torch.zeros(2, 5)), torch.zeros(2, 5))


@pytest.mark.parametrize("kind", ["bias", "norm"])
def test_a_model_and_its_folded_twin_have_the_same_maps(models, batch, kind):
    tuned = models[kind]
    folded = copy.deepcopy(tuned)
    folded.fold()
    for ours, theirs in zip(relevancy(tuned, batch, LABEL), relevancy(folded, batch, LABEL)):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    for name, mass in eos_attention(tuned, 2).items():
        np.testing.assert_allclose(mass, eos_attention(folded, 2)[name], atol=1e-5)
