"""Hook points of the towers, against the stock CLIP's own modules."""

import pytest
import torch
import torch.nn.functional as F
from interp_fixtures import LABEL, H, L

from promptbias.model.adapter import POINTS, Adapter, Adapters
from promptbias.model.hooks import EMBEDDINGS, FEATURES, IN_BLOCK, Point, points_of
from promptbias.utils.errors import UserError

KINDS = ["deep", "shallow", "bias", "norm", "plain"]


def everything(model, batch, hooks_v=None, hooks_t=None):
    """Unit features of images and of the texts of LABEL, under hooks."""
    with model.vision.hooked(hooks_v or {}), model.text.hooked(hooks_t or {}):
        return model.image_features(batch), model.text_features(LABEL)


def points_by_stock_block(block, x, mask):
    """What each point of a block holds, from the block's own modules: tokens x (B, N, D)."""
    D, heads = x.shape[-1], block.attn.num_heads
    h = block.ln_1(x)
    q, k, v = F.linear(h, block.attn.in_proj_weight, block.attn.in_proj_bias).split(D, -1)
    turned = h.transpose(0, 1)  # the stock block has tokens first
    out, pattern = block.attn(turned, turned, turned, attn_mask=mask, average_attn_weights=False)
    middle = x + out.transpose(0, 1)
    h2 = block.ln_2(middle)
    return {
        "resid_pre": x,
        "ln_1": h,
        "attn.q": q,
        "attn.k": k,
        "attn.v": v,
        "attn.pattern": pattern,
        "attn.z": pattern @ v.unflatten(-1, (heads, -1)).transpose(1, 2),
        "attn.out": out.transpose(0, 1),
        "resid_mid": middle,
        "ln_2": h2,
        "mlp.hidden": block.mlp.c_fc(h2),
        "mlp.out": block.mlp(h2),
        "resid_post": middle + block.mlp(h2),
    }


def captured(tower, run):
    values = {}
    with torch.no_grad(), tower.hooked({"*": lambda value, point: values.update({str(point): value})}):
        run()
    return values


@pytest.mark.parametrize("kind", ["deep", "plain"])
@pytest.mark.parametrize("branch", ["vision", "text"])
def test_each_point_holds_what_the_stock_block_computes(models, batch, kind, branch):
    model = models[kind]
    tower = getattr(model, branch)
    run = (lambda: model.image_features(batch)) if branch == "vision" else (lambda: model.text_features(LABEL))
    values = captured(tower, run)
    assert list(values) == [str(point) for point in points_of(L)]  # all of them, in the order of the computation
    N = values["blocks.0.resid_pre"].shape[1]
    mask = None if branch == "vision" else torch.full((N, N), -torch.inf).triu(1)
    for i, block in enumerate(tower.blocks):
        expected = points_by_stock_block(block, values[f"blocks.{i}.resid_pre"], mask)
        assert list(expected) == list(IN_BLOCK)
        for name, value in expected.items():
            ours = values[f"blocks.{i}.{name}"]
            assert ours.shape == value.shape
            torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_embeddings_and_features_are_those_of_the_stock_clip(models, batch):
    model = models["plain"]
    clip, visual = model.clip, model.clip.visual
    values = captured(model.vision, lambda: model.image_features(batch))
    patches = visual.conv1(batch).flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(len(batch), 1, -1), patches], 1) + visual.positional_embedding
    torch.testing.assert_close(values[EMBEDDINGS], tokens)
    torch.testing.assert_close(values[FEATURES], clip.encode_image(batch), rtol=1e-4, atol=1e-5)
    values = captured(model.text, lambda: model.text_features(LABEL))
    ids = model.text.tokens[LABEL]
    length = int(ids.argmax(-1).max()) + 1
    torch.testing.assert_close(values[EMBEDDINGS], clip.token_embedding(ids)[:, :length])
    torch.testing.assert_close(values[FEATURES], clip.encode_text(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_hooked_and_unhooked_passes_agree(models, batch, kind):
    model = models[kind]
    before = everything(model, batch)
    reading = {"*": lambda value, point: None}
    copying = {"*": lambda value, point: value.clone()}
    for hooks in (reading, copying):
        for ours, plain in zip(everything(model, batch, hooks, hooks), before):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    for ours, plain in zip(everything(model, batch), before):
        assert torch.equal(ours, plain)


class AddsAtPoint(Adapter):
    """Adds a vector at one of POINTS."""

    def __init__(self, point, width):
        super().__init__()
        self.attaches_to = (point,)
        self.vectors = torch.linspace(-1, 1, (L + 1) * width).reshape(L + 1, width)

    def on_embeddings(self, x):
        return x + self.vectors[0] if "embeddings" in self.attaches_to else x

    def pre_block(self, i, x):
        return x + self.vectors[i] if "resid_pre" in self.attaches_to else x

    def post_block(self, i, x):
        return x + self.vectors[i] if "resid_post" in self.attaches_to else x

    def on_activation(self, point, i, x, source):
        return x + self.vectors[i]


@pytest.mark.parametrize("point", POINTS)
def test_an_adapter_at_any_point_acts_alike_with_and_without_hooks(models, batch, point):
    model = models["plain"]
    without = everything(model, batch)

    def adapter(tower):
        joint = model.clip.text_projection.shape[1]
        width = {"mlp.hidden": 4 * tower.width, "features": joint}.get(point, tower.width)
        return AddsAtPoint(point, width)

    model.adapters = Adapters(adapter(model.vision), adapter(model.text))
    with torch.enable_grad():  # text features are not kept
        unhooked = everything(model, batch)
        hooked = everything(model, batch, {"*": lambda v, p: None}, {"*": lambda v, p: None})
    for a, b, plain in zip(unhooked, hooked, without):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        # A constant added to all keys moves all scores of a query alike.
        assert torch.allclose(a, plain, atol=1e-4) == (point == "attn.k")


@pytest.mark.parametrize("point", [str(point) for point in points_of(L) if point.block in (None, 1)])
@pytest.mark.parametrize("branch", ["vision", "text"])
def test_each_point_can_be_replaced(models, batch, point, branch):
    model = models["deep"]
    which = ["vision", "text"].index(branch)
    plain = everything(model, batch)[which]
    hooks = [{}, {}]
    hooks[which] = {point: lambda value, _: value * torch.linspace(0.5, 1.5, value.shape[-1])}
    assert (everything(model, batch, *hooks)[which] - plain).abs().max() > 1e-4


def test_zeroed_heads_leave_the_output_bias_of_attention(models, batch):
    model = models["plain"]
    zeroed, _ = everything(model, batch, {"blocks.*.attn.z": lambda z, point: torch.zeros_like(z)})
    x = captured(model.vision, lambda: model.image_features(batch))["blocks.0.resid_pre"]
    visual = model.clip.visual
    for block in visual.transformer.resblocks:
        x = x + block.attn.out_proj.bias
        x = x + block.mlp(block.ln_2(x))
    expected = F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)
    torch.testing.assert_close(zeroed, expected, rtol=1e-4, atol=1e-5)


def test_a_replaced_value_of_one_head_and_block_is_what_later_points_see(models, batch):
    model = models["bias"]
    values = {}

    def only_first_head(z, point):
        z = z.clone()
        z[:, 1:] = 0
        return z

    hooks = {"blocks.2.attn.z": only_first_head, "blocks.2.attn.out": lambda v, p: values.update(out=v)}
    before = captured(model.vision, lambda: model.image_features(batch))["blocks.2.attn.z"]
    everything(model, batch, hooks)
    attn = model.vision.blocks[2].attn
    d = before.shape[-1]
    expected = before[:, 0] @ attn.out_proj.weight[:, :d].T + attn.out_proj.bias
    assert before.shape[1] == H
    torch.testing.assert_close(values["out"], expected, rtol=1e-4, atol=1e-5)


def test_hooks_at_one_point_are_called_in_order_and_outer_ones_first(models, batch):
    tower, called = models["plain"].vision, []
    with tower.hooked({"blocks.1.*": lambda v, p: called.append("outer")}):
        with tower.hooked({"blocks.1.ln_1": lambda v, p: called.append(p)}):
            models["plain"].image_features(batch)
        assert called[1:3] == ["outer", Point(1, "ln_1")] and len(called) == len(IN_BLOCK) + 1
        models["plain"].image_features(batch)
        assert len(called) == 2 * len(IN_BLOCK) + 1  # the inner one is gone
    assert tower.hooks is None


def test_hooks_are_gone_after_an_error(models):
    tower = models["plain"].text
    with pytest.raises(ZeroDivisionError), tower.hooked({"blocks.0.ln_1": lambda v, p: 1 / 0}):
        models["plain"].text_features(LABEL)
    assert tower.hooks is None


@pytest.mark.parametrize(
    "pattern, hint",
    [
        ("blocks.*.attn.patern", 'did you mean "blocks.*.attn.pattern"?'),
        ("blocks.7.attn.pattern", "in a tower of 3 blocks (numbered from 0)"),
        ("feature", 'did you mean "features"?'),
    ],
)
def test_an_unknown_point_gets_a_hint(models, pattern, hint):
    with pytest.raises(UserError) as caught, models["plain"].vision.hooked({pattern: lambda v, p: None}):
        pass
    assert hint in str(caught.value) and pattern in str(caught.value)
    assert models["plain"].vision.hooks is None
