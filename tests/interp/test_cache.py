"""Captured activations and their gradients, against plain loops over heads and tokens."""

import pytest
import torch
import torch.nn.functional as F
from interp_fixtures import LABEL, H, L, M

from promptbias.interp.cache import PATTERN, RESID_PRE, capture, gradients
from promptbias.interp.token_layout import vision_columns
from promptbias.utils.errors import UserError


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
            visible = row + 1 if mask else len(x)
            e = torch.stack([torch.exp(q[row] @ k[j] / d**0.5) for j in range(visible)])
            A[head, row, :visible] = e / e.sum()
    return A


@pytest.mark.parametrize("kind", ["deep", "shallow", "bias", "plain"])
def test_captured_attention_is_that_of_each_head_and_row(models, batch, kind):
    model = models[kind]
    points = f"blocks.*.{PATTERN}", f"blocks.*.{RESID_PRE}"
    with capture(model.vision, *points) as cache_v, capture(model.text, *points) as cache_t:
        model.image_features(batch)
        model.text_features(LABEL)
    for cache, tower, mask in ((cache_v, model.vision, False), (cache_t, model.text, True)):
        inputs, patterns = cache.by_block(RESID_PRE), cache.by_block(PATTERN)
        assert list(patterns) == list(inputs) == list(range(L))
        for i, A in patterns.items():
            assert A.dtype == torch.float32 and A.shape[:2] == (len(LABEL), H)
            torch.testing.assert_close(A.sum(-1), torch.ones(A.shape[:3]))
            torch.testing.assert_close(A[1], plain_attention(tower.blocks[i], inputs[i][1], mask))


def test_only_the_named_activations_are_kept(deep, batch):
    with capture(deep.vision, f"blocks.1.{RESID_PRE}") as cache:
        deep.image_features(batch)
    assert list(cache) == [f"blocks.1.{RESID_PRE}"] and len(cache) == 1 and not cache.by_block(PATTERN)
    prompts = cache[f"blocks.1.{RESID_PRE}"][:, vision_columns(deep)["prompts"]]
    torch.testing.assert_close(prompts, deep.adapters.vision.prompts[1].expand_as(prompts))


def test_by_default_every_attention_pattern_is_kept(deep, batch):
    with capture(deep.vision) as cache:
        deep.image_features(batch)
    assert list(cache) == [f"blocks.{i}.{PATTERN}" for i in range(L)]


def test_several_patterns_are_kept_in_the_order_of_the_computation(deep, batch):
    with capture(deep.vision, "features", "blocks.[02].attn.*", "embeddings") as cache:
        deep.image_features(batch)
    names = [f"blocks.{i}.attn.{name}" for i in (0, 2) for name in ("q", "k", "v", "pattern", "z", "out")]
    assert list(cache) == ["embeddings", *names, "features"]
    assert "blocks.2.attn.z: (4, 2, 20, 64)" in repr(cache)


def test_each_pass_replaces_the_one_before(deep, batch):
    with capture(deep.vision, "features") as cache:
        deep.image_features(batch)
        deep.image_features(batch[:1])
    assert len(cache["features"]) == 1


def test_an_unknown_point_is_refused_with_a_hint_and_leaves_nothing_behind(deep):
    message = r'no hook point matches "blocks.\*.attn.patterns".*did you mean "blocks.\*.attn.pattern"'
    with pytest.raises(UserError, match=message), capture(deep.vision, "blocks.*.attn.patterns"):
        pass
    assert deep.vision.hooks is None and torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["deep", "bias", "plain"])
def test_the_model_is_untouched_outside_the_context(models, batch, kind):
    model = models[kind]
    before = model(batch)
    with capture(model.vision, gradient=True), capture(model.text, gradient=True):
        assert model.vision.hooks is not None and torch.is_grad_enabled()
        within = model(batch)
    torch.testing.assert_close(within, before)
    assert model.vision.hooks is model.text.hooks is None
    assert torch.equal(model(batch), before)
    with pytest.raises(RuntimeError), capture(model.vision):
        raise RuntimeError
    assert model.vision.hooks is None


def test_autograd_is_on_only_where_gradients_are_asked_for(deep, batch):
    with torch.no_grad(), capture(deep.vision, gradient=True) as cache:
        deep.image_features(batch)
    assert all(value.requires_grad for value in cache.values())
    with capture(deep.vision) as cache:
        assert not torch.is_grad_enabled()
        deep.image_features(batch)
    assert torch.is_grad_enabled() and not any(value.requires_grad for value in cache.values())


@pytest.mark.parametrize(
    "point, at", [("attn.pattern", (1, 5)), ("attn.z", (1, 5)), ("mlp.hidden", (5,)), ("ln_1", (0,))]
)
def test_gradient_is_the_slope_of_y(deep, batch, point, at):
    """∂y/∂x by finite differences: one row of one activation is pushed by hand."""
    label, name = LABEL[:1], f"blocks.1.{point}"

    def y():
        return (deep.logit_scale * (deep.image_features(batch[:1]) * deep.text_features(label)).sum(-1)).sum()

    with capture(deep.vision, name, gradient=True) as cache:
        (gradient,) = gradients(y(), cache)
    assert list(gradient) == [name] and gradient[name].shape == cache[name].shape

    def pushed(column, by):
        def push(value, _):
            value = value.clone()
            value[(0, *at, column)] += by
            return value

        with deep.vision.hooked({name: push}):
            return float(y())

    for column in (0, 3, M + 1):
        slope = (pushed(column, 1e-2) - pushed(column, -1e-2)) / 2e-2
        assert slope == pytest.approx(float(gradient[name][(0, *at, column)]), rel=0.02, abs=2e-3)


def test_gradients_of_both_towers_come_from_one_backward_pass(deep, batch):
    with capture(deep.vision, gradient=True) as cache_v, capture(deep.text, gradient=True) as cache_t:
        y = (deep.image_features(batch) * deep.text_features(LABEL)).sum()
        of_vision, of_text = gradients(y, cache_v, cache_t)
    for found, cache in ((of_vision, cache_v), (of_text, cache_t)):
        assert list(found) == list(cache) and all(found[name].any() for name in found)
