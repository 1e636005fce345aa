"""Recording, relevancy and the statistics of attention, against plain loops over heads and tokens."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from promptbias.analysis.contribution import KINDS
from promptbias.analysis.distance import attention_distance, pixel_distances
from promptbias.analysis.entropy import attention_entropy
from promptbias.analysis.eos_attention import eos_attention
from promptbias.analysis.heatmap import prompt_distances, scaled, upsampled
from promptbias.interp.cache import gradients, recording, text_columns, vision_columns
from promptbias.interp.relevancy import head_means, relevancy, row_of_product, shares
from promptbias.interp.statistics import Means, correlation, groups, rank_correlation
from promptbias.trainers import bias_tuning, ivlp, zeroshot
from promptbias.model.encoder import Tap, Tuner

CLASSES = ["cat", "permanent crop land", "highway or road"]
V, T, M, L, H = 3, 4, 16, 3, 2


@pytest.fixture
def make(small_clip, config):
    """make(trainer, *pairs): a model around a copy of `small_clip`, with something learned and attention far from uniform."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in small_clip.named_parameters():
            if "resblocks" in name and p.ndim == 2:
                p.copy_(1.5 * torch.randn_like(p) * p.shape[-1] ** -0.5)

    def model(trainer, *pairs):
        built = trainer.CustomCLIP(config(*pairs), CLASSES, copy.deepcopy(small_clip)).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for p in built.learner.parameters():
                p += 0.5 * torch.randn_like(p)
        return built.requires_grad_(False)

    return model


@pytest.fixture
def deep(make):
    return make(ivlp, "IVLP.N_CTX_VISION", V, "IVLP.N_CTX_TEXT", T)


@pytest.fixture
def models(make, deep):
    shallow = make(
        ivlp, "IVLP.N_CTX_VISION", V, "IVLP.N_CTX_TEXT", T, "IVLP.PROMPT_DEPTH_VISION", 1, "IVLP.PROMPT_DEPTH_TEXT", 1
    )
    return {"deep": deep, "shallow": shallow, "bias": make(bias_tuning), "plain": make(zeroshot)}


@pytest.fixture
def images():
    torch.manual_seed(2)
    return torch.randn(4, 3, 32, 32)


LABEL = torch.tensor([2, 0, 1, 2])


# ---- recording


def plain_attention(block, x, mask):
    """Softmax attention of tokens x (N, D), one number at a time over heads and rows: (H, N, N)."""
    attn, D = block.attn, x.shape[-1]
    d = D // attn.num_heads
    h = F.layer_norm(x, (D,), block.ln_1.weight, block.ln_1.bias)
    A = torch.zeros(attn.num_heads, len(x), len(x))
    for head in range(attn.num_heads):
        at = slice(head * d, head * d + d)
        q, k = (
            h @ attn.in_proj_weight[n * D : (n + 1) * D].T[:, at] + attn.in_proj_bias[n * D : (n + 1) * D][at]
            for n in range(2)
        )
        for row in range(len(x)):
            seen = row + 1 if mask else len(x)
            e = torch.stack([torch.exp(q[row] @ k[j] / d**0.5) for j in range(seen)])
            A[head, row, :seen] = e / e.sum()
    return A


@pytest.mark.parametrize("kind", ["deep", "shallow", "bias", "plain"])
def test_recorded_attention_is_that_of_each_head_and_row(models, images, kind):
    model = models[kind]
    with recording(model.vision, tokens=True) as v, recording(model.text, tokens=True) as t:
        model.image_features(images)
        model.text_features(LABEL)
    assert list(v.attention) == list(t.attention) == list(range(L))
    for seen, tower, mask in ((v, model.vision, False), (t, model.text, True)):
        for i, A in seen.attention.items():
            assert A.dtype == torch.float32 and A.shape[:2] == (len(LABEL), H)
            torch.testing.assert_close(A.sum(-1), torch.ones(A.shape[:3]))
            torch.testing.assert_close(A[1], plain_attention(tower.blocks[i], seen.tokens[i][1], mask))


def test_what_is_recorded_are_the_asked_blocks_and_the_prompts_that_stand_there(deep, images):
    with recording(deep.vision, blocks=[1], tokens=True, attention=False) as seen:
        deep.image_features(images)
    assert list(seen.tokens) == [1] and not seen.attention
    prompts = seen.tokens[1][:, vision_columns(deep)["prompts"]]
    torch.testing.assert_close(prompts, deep.learner.vision.prompts[1].expand_as(prompts))


@pytest.mark.parametrize("kind", ["deep", "bias", "plain"])
def test_the_model_is_untouched_outside_the_context(models, images, kind):
    model = models[kind]
    before = model(images)
    with recording(model.vision, gradient=True), recording(model.text, gradient=True):
        assert model.vision.tap is not None and torch.is_grad_enabled()
        within = model(images)
    torch.testing.assert_close(within, before)
    assert model.vision.tap is model.text.tap is None
    assert torch.equal(model(images), before)
    with pytest.raises(RuntimeError), recording(model.vision):
        raise RuntimeError
    assert model.vision.tap is None


def test_gradient_is_the_slope_of_y(deep, images):
    """∂y/∂A by finite differences: A of one head and row is pushed by hand."""
    label, i, head, row = LABEL[:1], 1, 1, 5

    class Push(Tap):
        def __init__(self, column, by):
            self.column, self.by = column, by

        def attend(self, block, q, k, v, mask):
            A = self.weights(q, k, mask)
            if block == i:
                A[0, head, row, self.column] += self.by
            return A @ v

    def y():
        return (deep.logit_scale * (deep.image_features(images[:1]) * deep.text_features(label)).sum(-1)).sum()

    with recording(deep.vision, gradient=True) as seen:
        (gradient,) = gradients(y(), seen)
    for column in (0, 3, M + 1):
        values = []
        for by in (1e-2, -1e-2):
            deep.vision.tap = Push(column, by)
            values.append(float(y()))
        deep.vision.tap = None
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(
            float(gradient[i][0, head, row, column]), rel=0.02, abs=1e-3
        )


def test_columns_are_named_as_the_tokens_stand(models):
    from promptbias.model.loading import import_clip

    clip, _ = import_clip()
    assert vision_columns(models["deep"]) == {"cls": slice(0, 1), "patches": slice(1, 17), "prompts": slice(17, 20)}
    assert vision_columns(models["plain"])["prompts"] == slice(17, 17)
    for kind, words in (("deep", "a photo of a"), ("plain", "a photo of a"), ("bias", "a photo of a")):
        columns = text_columns(models[kind], 1)
        names = list(columns)
        assert names == ["SOS", "prompts", "template", "class", "end", "EOS"]
        assert all(columns[a].stop == columns[b].start for a, b in zip(names, names[1:]))
        row = models[kind].text.tokens[1].tolist()
        assert row[columns["class"]] == clip.tokenize(CLASSES[1])[0, 1:4].tolist()
        assert row[columns["end"]] == clip.tokenize(".")[0, 1:2].tolist()
        assert row[columns["EOS"].start] == max(row)
        length = T if kind == "deep" else 0
        assert columns["prompts"].stop - columns["prompts"].start == length
        assert columns["template"].stop - columns["template"].start == 4 - length


# ---- relevancy


def relevancy_by_hand(model, image, k):
    """Eqs. 13-16 for one pair, with whole matrices R and one backward pass for each block and branch."""
    rows = []
    for tower, row in ((model.vision, 0), (model.text, int(model.text.tokens[k].argmax()))):
        R = None
        for i in range(len(tower.blocks)):
            with recording(tower, [i], gradient=True) as seen:
                y = model.logit_scale * model.image_features(image[None])[0] @ model.text_features(torch.tensor([k]))[0]
                (gradient,) = gradients(y, seen)
            A, G = seen.attention[i][0], gradient[i][0]
            Abar = torch.zeros(A.shape[1:])
            for head in range(len(A)):
                for a in range(A.shape[1]):
                    for b in range(A.shape[2]):
                        Abar[a, b] += max(0.0, float(G[head, a, b] * A[head, a, b].detach())) / len(A)
            R = torch.eye(len(Abar)) if R is None else R
            R = R + Abar @ R
        rows.append((R, R[row]))
    return rows


@pytest.mark.parametrize("kind", ["deep", "shallow", "bias", "plain"])
def test_relevancy_of_a_batch_equals_one_pair_and_one_block_at_a_time(models, images, kind):
    model = models[kind]
    of_image, of_text = relevancy(model, images, LABEL)
    for b in (0, 1):
        (R, row_v), (_, row_t) = relevancy_by_hand(model, images[b], int(LABEL[b]))
        torch.testing.assert_close(of_image[b], row_v[1:], rtol=1e-4, atol=1e-5)
        eos = len(row_t) - 1
        torch.testing.assert_close(of_text[b, :eos], row_t[:eos], rtol=1e-4, atol=1e-5)
        assert not of_text[b, eos:].any()
        if kind == "deep":  # what stands at prompts is thrown away: their rows never leave the identity
            torch.testing.assert_close(R[17:], torch.eye(len(R))[17:], rtol=0, atol=0)
        if kind == "shallow":
            assert (R[17:] - torch.eye(len(R))[17:]).any()
        alone = relevancy(model, images[b : b + 1], LABEL[b : b + 1])
        torch.testing.assert_close(alone[0][0], of_image[b], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone[1][0], of_text[b, : alone[1].shape[1]], rtol=1e-4, atol=1e-5)


def test_two_blocks_of_deep_prompts_by_hand():
    """Tokens: [cls], one patch, one prompt. A prompt's column sums what its position gave in both blocks."""
    first = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.0, 0.5], [0.0, 0.0, 0.0]])
    second = torch.tensor([[0.0, 0.6, 0.7], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    row = row_of_product([first[None], second[None]], torch.tensor([0]))[0]
    # R_1 = I + first; row [cls] of R_2 = R_1[cls] + 0.6 R_1[patch] + 0.7 R_1[prompt]
    torch.testing.assert_close(row, torch.tensor([1.1 + 0.6 * 0.4, 0.2 + 0.6 * 1.0, 0.3 + 0.6 * 0.5 + 0.7 * 1.0]))


def test_first_block_leaves_the_earlier_ones_out(deep, images):
    of_image, _ = relevancy(deep, images, LABEL, first_block=L - 1)
    with recording(deep.vision, gradient=True) as seen:
        y = (deep.logit_scale * (deep.image_features(images) * deep.text_features()[LABEL]).sum(-1)).sum()
        (gradient,) = gradients(y, seen)
    expected = (seen.attention[L - 1] * gradient[L - 1]).clamp(min=0).mean(1)[:, 0, 1:]
    torch.testing.assert_close(of_image, expected.detach(), rtol=1e-4, atol=1e-6)


def test_relevancy_without_gradient_is_the_identity():
    attention = {i: torch.rand(2, H, 5, 5) for i in range(L)}
    maps = head_means(attention, {i: torch.zeros_like(A) for i, A in attention.items()}, Tuner())
    row = row_of_product(maps, torch.tensor([0, 3]))
    assert torch.equal(row, torch.eye(5)[[0, 3]])
    assert torch.equal(shares(torch.zeros(2, 5)), torch.zeros(2, 5))


def test_a_bias_model_and_its_folded_twin_have_the_same_maps(make, images):
    bias = make(bias_tuning)
    folded = copy.deepcopy(bias)
    folded.fold()
    for ours, theirs in zip(relevancy(bias, images, LABEL), relevancy(folded, images, LABEL)):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    for name, mass in eos_attention(bias, 2).items():
        np.testing.assert_allclose(mass, eos_attention(folded, 2)[name], atol=1e-5)


# ---- statistics of attention


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
def test_eos_attention_adds_up_and_counts_all_classes_alike(models, kind):
    model = models[kind]
    mass = eos_attention(model, batch_size=2)
    np.testing.assert_allclose(sum(mass.values()), np.ones((L, H)), atol=1e-5)
    expected = np.zeros((L, H))
    for k in range(len(CLASSES)):
        columns = text_columns(model, k)
        with recording(model.text) as seen:
            model.text_features(torch.tensor([k]))
        for i, A in seen.attention.items():
            expected[i] += A[0, :, columns["EOS"].start, columns["class"]].sum(-1).numpy() / len(CLASSES)
    np.testing.assert_allclose(mass["class"], expected, atol=1e-6)


def test_prompt_distances_are_euclidean(deep, images):
    with recording(deep.vision, tokens=True) as seen:
        deep.image_features(images)
    x = seen.tokens[1]
    expected = torch.tensor(
        [
            [[math.dist(x[b, 17 + v].tolist(), x[b, 1 + j].tolist()) for j in range(M)] for v in range(V)]
            for b in range(2)
        ]
    )
    torch.testing.assert_close(prompt_distances(x, deep)[:2], expected, rtol=1e-3, atol=1e-3)
    maps = scaled(upsampled(prompt_distances(x, deep), 32))
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


def test_groups_are_masks_of_named_columns(models):
    columns = [text_columns(models["bias"], k) for k in range(3)]
    masks = groups(columns, 77)
    assert set(KINDS) < set(masks)
    covered = sum(masks.values())
    for k, ranges in enumerate(columns):
        assert covered[k, : ranges["EOS"].stop].eq(1).all() and not covered[k, ranges["EOS"].stop :].any()
