"""Decomposition, constancy, the variants of the mechanism and prompts to biases, on small random CLIPs."""

import argparse
import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from promptbias.analysis import constancy, decompose, mechanism, to_bias, truth
from promptbias.analysis.constancy import PromptTerm
from promptbias.analysis.decompose import PLAIN, ImageBranch, Shares, TakenApart, TextBranch
from promptbias.analysis.mechanism import VARIANTS, WHERE, accuracies, variant_features
from promptbias.model.encoder import Tap, Tuner
from promptbias.trainers import bias_tuning, ivlp, zeroshot
from promptbias.utils.errors import UserError

CLASSES = ["cat", "permanent crop land", "highway or road"]
V, T, M, L = 3, 4, 16, 3
NAMES = list(VARIANTS)


@pytest.fixture
def stock(small_clip):
    """A stock CLIP whose attention is far from uniform."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in small_clip.named_parameters():
            if "resblocks" in name and p.ndim == 2:
                p.copy_(1.5 * torch.randn_like(p) * p.shape[-1] ** -0.5)
    return small_clip


@pytest.fixture
def tuned(stock, config):
    """tuned(depth_vision, depth_text, text_prompts): IVLP with random prompts, around a copy of `stock`."""

    def make(depth_vision=L, depth_text=L, text_prompts=T, trainer=ivlp):
        cfg = config(
            "IVLP.N_CTX_VISION",
            V,
            "IVLP.N_CTX_TEXT",
            text_prompts,
            "IVLP.PROMPT_DEPTH_VISION",
            depth_vision,
            "IVLP.PROMPT_DEPTH_TEXT",
            depth_text,
        )
        model = trainer.CustomCLIP(cfg, CLASSES, copy.deepcopy(stock)).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for p in model.learner.parameters():
                p += torch.randn_like(p)
        return model

    return make


@pytest.fixture
def model(tuned):
    return tuned()


@pytest.fixture
def images():
    torch.manual_seed(2)
    return torch.randn(6, 3, 32, 32)


def branches(model):
    return ImageBranch(model), TextBranch(model)


def batch_of(branch, images):
    return images if branch.name == "image" else torch.arange(len(CLASSES))


def mean_u(branch, batch):
    return PromptTerm(branch).stream([batch]).gathered()


def plain_update(block, x, prompts, row, mask_after):
    """eqs. 17-33 written out for one row of tokens x (N, D): the attention update, (1 - pi) a v W_O, u W_O, and b_O."""
    attn, D = block.attn, x.shape[-1]
    d = D // attn.num_heads
    W, b = attn.in_proj_weight, attn.in_proj_bias
    h = F.layer_norm(x, (D,), block.ln_1.weight, block.ln_1.bias)
    visible = [j for j in range(len(x)) if not (mask_after and j > row)]
    update, from_inputs, from_prompts = torch.zeros(D), torch.zeros(D), torch.zeros(D)
    for head in range(attn.num_heads):
        at = slice(head * d, head * d + d)
        q, k, v = (h @ W[n * D : (n + 1) * D].T[:, at] + b[n * D : (n + 1) * D][at] for n in range(3))
        W_O = attn.out_proj.weight[:, at].T  # (d, D)
        e = {j: torch.exp(q[row] @ k[j] / d**0.5) for j in visible}
        total = sum(e.values())
        inputs = sum(e[j] for j in visible if j not in prompts)
        pi = 1 - inputs / total
        for j in visible:
            update = update + e[j] / total * v[j] @ W_O
            if j in prompts:
                from_prompts = from_prompts + e[j] / total * v[j] @ W_O
            else:
                from_inputs = from_inputs + (1 - pi) * e[j] / inputs * v[j] @ W_O
    return update + attn.out_proj.bias, from_inputs, from_prompts, attn.out_proj.bias


@pytest.mark.parametrize("kind", ["image", "text"])
@torch.no_grad()
def test_decomposition_adds_up_and_equals_the_formulas(model, images, kind):
    branch = branches(model)[kind == "text"]
    seen = []

    class Look(TakenApart):
        def tokens(self, i, x):
            self.x = x

        def update(self, i, parts):
            out = branch.tower.blocks[i].attn.out_proj
            join = lambda t: t.transpose(1, 2).flatten(2) @ out.weight.T
            seen.append((i, self.x, join((1 - parts.pi) * (parts.a @ parts.v)), join(parts.u), parts))
            return parts.whole

    branch.features(batch_of(branch, images)[:2], Look(branch.tuner.prompts_at))
    prompts = range(branch.tuner.prompts_at.start, branch.tuner.prompts_at.stop)
    assert len(seen) == L
    for i, x, own, u, parts in seen:
        rows = [r for r in range(x.shape[1]) if r not in prompts]
        assert torch.allclose(parts.a.sum(-1), torch.ones(()), atol=1e-5)
        for position in (0, 1, len(rows) - 1):
            row = rows[position]
            update, from_inputs, from_prompts, b = plain_update(
                branch.tower.blocks[i], x[1], prompts, row, kind == "text"
            )
            assert torch.allclose(own[1, position], from_inputs, atol=1e-4)
            assert torch.allclose(u[1, position], from_prompts, atol=1e-4)
            assert torch.allclose(own[1, position] + u[1, position] + b, update, atol=1e-4)


def test_first_image_block_only_rescales_attention_among_inputs(model, images):
    branch = ImageBranch(model)
    ours, plain = branch.attention(images).a, branch.attention(images, PLAIN).a
    assert torch.allclose(ours[0], plain[0], atol=1e-6)
    assert (ours[1] - plain[1]).abs().max() > 1e-3
    means = Shares(branch).stream([images]).means()
    assert means["moved"][0].max() < 1e-5 < 1e-3 < means["moved"][1:].min()


def test_shares_are_independent_of_batch_size_and_between_0_and_1(model, images):
    for branch in branches(model):
        batch = batch_of(branch, images)
        whole, parts = Shares(branch).stream([batch]), Shares(branch).stream(batch.split(2))
        assert torch.equal(whole.count, parts.count)
        assert whole.error < 1e-5
        for name, mean in whole.means().items():
            assert torch.allclose(mean, parts.means()[name], atol=1e-6)
            assert mean.min() >= 0 and mean.max() <= 1


@pytest.mark.parametrize("shape", [(L, L), (1, 1), (0, 2), (L, L, 6)])  # 6 text prompts: no words, "X X X X X X"
@torch.no_grad()
def test_full_variant_is_the_untouched_model(tuned, images, shape):
    model = tuned(*shape)
    for branch in branches(model):
        batch = batch_of(branch, images)
        ours = variant_features(branch, batch, mean_u(branch, batch))
        untouched = model.image_features(images) if branch.name == "image" else model.text_features()
        assert torch.allclose(ours[NAMES.index("full")], untouched, atol=1e-5)
        if branch.has_prompts:
            for name in NAMES[1:]:
                assert not torch.allclose(ours[NAMES.index(name)], untouched, atol=1e-3), name
        else:  # nothing to take away
            assert torch.allclose(ours, untouched.expand_as(ours), atol=1e-5)


@torch.no_grad()
def test_none_is_plain_clip_without_prompts(model, stock, images):
    branch = ImageBranch(model)
    none = variant_features(branch, images, mean_u(branch, images))[NAMES.index("none")]
    assert torch.allclose(none, F.normalize(stock.encode_image(images), dim=-1), atol=1e-5)


@torch.no_grad()
def test_none_in_the_text_branch_masks_the_prompts_and_keeps_positions(model, stock):
    """Against a stock text tower that runs on the tokens left over, at their old positions."""
    branch, which = TextBranch(model), torch.arange(len(CLASSES))
    none = variant_features(branch, which, mean_u(branch, which))[NAMES.index("none")]
    for k, tokens in enumerate(model.text.tokens):
        eos = int(tokens.argmax())
        stay = [0, *range(1 + T, eos + 1)]
        x = stock.token_embedding(tokens[stay]) + stock.positional_embedding[stay]
        mask = torch.full((len(stay), len(stay)), -torch.inf).triu(1)
        for block in stock.transformer.resblocks:
            block.attn_mask = mask
            x = block(x[:, None])[:, 0]
        expected = F.normalize(stock.ln_final(x[-1]) @ stock.text_projection, dim=-1)
        assert torch.allclose(none[k], expected, atol=1e-5)


def image_attention(block, x, prompts):
    """Of tokens x (B, n, D) with `prompts` (V, D) after them: a, (1 - pi) a, values of x, u."""
    D, H = x.shape[-1], block.attn.num_heads
    h = block.ln_1(torch.cat([x, prompts.expand(len(x), -1, -1)], 1))
    q, k, v = (h @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).reshape(*h.shape[:2], 3, H, D // H).unbind(2)
    e = torch.einsum("bihd,bjhd->bhij", q, k).mul((D // H) ** -0.5).exp()
    n = x.shape[1]
    inputs, to_prompts = e[:, :, :n, :n], e[:, :, :n, n:]
    total = e[:, :, :n].sum(-1, keepdim=True)
    u = torch.einsum("bhij,bjhd->bihd", to_prompts / total, v[:, n:])
    return inputs / inputs.sum(-1, keepdim=True), inputs / total, v[:, :n], u


@torch.no_grad()
def test_attention_from_other_runs(model, stock, images):
    """Three walks side by side, written out: the tuned model, plain CLIP, the variant that takes their attention."""
    ours = variant_features(ImageBranch(model), images, mean_u(ImageBranch(model), images))
    visual, prompts = stock.visual, model.learner.vision.prompts
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    start = visual.ln_pre(x)
    embedded = [visual.ln_pre(prompts[0]), *prompts[1:]]
    gather = lambda a, v: torch.einsum("bhij,bjhd->bihd", a, v)
    for name in ("transplanted attention", "frozen attention"):
        full, plain, own = start, start, start
        for block, p in zip(visual.transformer.resblocks, embedded):
            a_full, rescaled, v_full, u_full = image_attention(block, full, p)
            a_plain, _, v_plain, _ = image_attention(block, plain, p)
            _, _, v_own, u_own = image_attention(block, own, p)
            mixed = gather(a_full, v_own) if name == "transplanted attention" else gather(a_plain, v_own) + u_own
            gathered = (gather(rescaled, v_full) + u_full, gather(a_plain, v_plain), mixed)
            x = torch.stack([full, plain, own]) + block.attn.out_proj(torch.stack(gathered).flatten(3))
            full, plain, own = x + block.mlp(block.ln_2(x))
        expected = F.normalize(visual.ln_post(own[:, 0]) @ visual.proj, dim=-1)
        assert torch.allclose(ours[NAMES.index(name)], expected, atol=1e-4), name
    assert torch.allclose(ours[0], F.normalize(visual.ln_post(full[:, 0]) @ visual.proj, dim=-1), atol=1e-4)


@torch.no_grad()
def test_constant_bias_of_images_is_the_folded_model(model, stock, images):
    branch = ImageBranch(model)
    term = PromptTerm(branch).stream(images.split(4))
    constant = variant_features(branch, images, term.gathered())[NAMES.index("constant bias")]
    for block, m in zip(stock.visual.transformer.resblocks, term.bias()):
        block.attn.out_proj.bias += m
    assert torch.allclose(constant, F.normalize(stock.encode_image(images), dim=-1), atol=1e-5)


@torch.no_grad()
def test_mean_of_u_is_a_plain_mean(model, images):
    """Over all images and [cls] + patches, and over all classes and positions after the prompts up to EOS."""
    for branch in branches(model):
        kept = []

        class Look(TakenApart):
            def update(self, i, parts):
                kept.append(parts.u.transpose(1, 2).flatten(2) @ branch.tower.blocks[i].attn.out_proj.weight.T)
                return parts.whole

        batch = batch_of(branch, images)
        branch.features(batch, Look(branch.tuner.prompts_at))
        term = PromptTerm(branch).stream(batch.split(2))
        for i, u in enumerate(kept):
            if branch.name == "image":
                rows = u.flatten(0, 1)
                assert len(rows) == len(images) * (1 + M)
            else:
                eos = model.text.tokens.argmax(-1)
                rows = torch.cat([u[k, 1 : int(end) + 1 - T] for k, end in enumerate(eos)])
            assert torch.allclose(term.bias()[i], rows.mean(0), atol=1e-5)
            constancy = rows.mean(0).square().sum() / rows.square().sum(-1).mean()
            assert torch.allclose(term.constancy()[i, 0].float(), constancy, atol=1e-5)
            assert 0 <= constancy <= 1


@torch.no_grad()
def test_constancy_is_1_for_a_constant_u(model, images):
    branch = ImageBranch(model)

    class Constant(PromptTerm):
        def update(self, i, parts):
            return super().update(i, parts._replace(u=torch.ones_like(parts.u)))

    found = Constant(branch).stream(images.split(2)).constancy()
    assert torch.allclose(found, torch.ones_like(found), atol=1e-6)


def test_accuracies_do_not_depend_on_batch_size(model, images):
    labels = torch.arange(len(images)) % len(CLASSES)
    m = {branch.name: mean_u(branch, batch_of(branch, images)) for branch in branches(model)}
    whole, count = accuracies(model, m, [(images, labels)])
    parts, _ = accuracies(model, m, zip(images.split(1), labels.split(1)))
    assert count == len(images) and whole.shape == (len(WHERE), len(VARIANTS))
    assert torch.equal(whole, parts)
    with torch.no_grad():
        untouched = (model(images).argmax(-1) == labels).float().mean()
    assert torch.allclose(whole[:, 0], untouched.expand(len(WHERE)))


@torch.no_grad()
def test_to_bias_is_a_stock_clip_with_m_in_its_output_biases(model, stock, images):
    m = {b.name: PromptTerm(b).stream([batch_of(b, images)]).bias() for b in branches(model)}
    labels = torch.arange(len(images)) % len(CLASSES)
    tokens, before = model.text.tokens, copy.deepcopy(stock.state_dict())
    result, count = to_bias.accuracies(stock, m, tokens, zip(images.split(4), labels.split(4)))
    assert all(torch.equal(p, before[key]) for key, p in stock.state_dict().items())  # the given CLIP stays as it is
    expected = {"neither branch": (stock(images, tokens)[0].argmax(-1) == labels).float().mean()}
    for i, block in enumerate(stock.visual.transformer.resblocks):
        block.attn.out_proj.bias += m["image"][i]
    expected["image branch"] = (stock(images, tokens)[0].argmax(-1) == labels).float().mean()
    for i, block in enumerate(stock.transformer.resblocks):
        block.attn.out_proj.bias += m["text"][i]
    expected["both branches"] = (stock(images, tokens)[0].argmax(-1) == labels).float().mean()
    assert count == len(images)
    for name, value in expected.items():
        assert result[name] == pytest.approx(float(value))


class Masked(Tap):
    """No row attends to the columns `gone` (B, n)."""

    def __init__(self, gone):
        self.gone = gone

    def attend(self, i, q, k, v, mask):
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        for scores_of_image, gone in zip(scores, self.gone):
            scores_of_image[:, :, gone] = -torch.inf
        return scores.softmax(-1) @ v


@pytest.mark.parametrize("kind", ["prompts", "shallow prompts", "biases", "plain"])
@torch.no_grad()
def test_dropped_patches_are_as_masked_ones(tuned, images, kind):
    model = tuned(1 if kind == "shallow prompts" else L, trainer=bias_tuning if kind == "biases" else ivlp)
    branch = ImageBranch(model)
    tuner = Tuner() if kind == "plain" else branch.tuner
    order = torch.stack([torch.randperm(M) for _ in images])
    for gone in (0, 5, M - 1, M):
        rows = torch.cat([torch.zeros(len(images), 1, dtype=torch.long), 1 + order[:, gone:]], 1)
        dropped = branch.features(images, tuner=truth.Without(tuner, rows, M))
        masked = branch.features(images, Masked(1 + order[:, :gone]), tuner)
        assert torch.allclose(dropped, masked, atol=1e-5)


@torch.no_grad()
def test_removal_starts_at_the_whole_image_and_follows_the_map(model, images):
    labels, texts = torch.arange(len(images)) % len(CLASSES), model.text_features()
    maps = {"ramp": torch.arange(M).float().expand(len(images), M)}
    ordered = truth.orders(maps, truth.by_chance(images, M, torch.Generator().manual_seed(0)))
    assert ordered["ramp", "most"][0, 0] == M - 1 and ordered["ramp", "least"][0, 0] == 0
    hits = [truth.hits_without(model, images, labels, order, texts) for order in ordered.values()]
    untouched = (model(images).argmax(-1) == labels).sum()
    assert all(h[0] == untouched and h[-1] == hits[0][-1] for h in hits)
    assert len(hits[0]) == len(truth.FRACTIONS)


def test_area_under_straight_lines():
    assert truth.area([1.0] * 11) == pytest.approx(1)
    assert truth.area([1 - f for f in truth.FRACTIONS]) == pytest.approx(0.5)


@torch.no_grad()
def test_raw_attention_is_that_of_cls_in_the_last_block(model, stock, images):
    x = (
        torch.cat(
            [
                stock.visual.class_embedding.expand(len(images), 1, -1),
                stock.visual.conv1(images).flatten(2).transpose(1, 2),
            ],
            1,
        )
        + stock.visual.positional_embedding
    )
    x = stock.visual.ln_pre(x).transpose(0, 1)
    *first, last = stock.visual.transformer.resblocks
    for block in first:
        x = block(x)
    h = last.ln_1(x)
    _, expected = last.attn(h, h, h, need_weights=True)  # averaged over heads
    branch = ImageBranch(model)
    branch.tuner = PLAIN
    assert torch.allclose(truth.raw_attention(branch, images), expected[:, 0, 1:], atol=1e-5)


class SmallStudy(SimpleNamespace):
    def __len__(self):
        return sum(len(labels) for _, labels in self.batches(""))


@pytest.fixture
def study(tuned, stock, config, images):
    """study(...): what `analysis.run.Study` offers, on a few random images; the arguments are those of `tuned`."""
    labels = torch.arange(len(images)) % len(CLASSES)

    def make(*args, **kwargs):
        model = tuned(*args, **kwargs)
        cfg = config("ZEROSHOTCLIP.TEMPLATE", "a photo of a {}.")
        plain = zeroshot.CustomCLIP(cfg, CLASSES, copy.deepcopy(stock)).eval()
        return SmallStudy(
            tuned=model,
            plain=plain,
            models={"zero-shot CLIP": plain, "tuned": model},
            label="tuned",
            cfg=config(),
            plain_clip=lambda template: plain,
            batches=lambda what, split="test": zip(images.split(4), labels.split(4)),
        )

    return make


COMMANDS = [decompose, mechanism, constancy, to_bias]


@pytest.mark.parametrize("command", [*COMMANDS, truth])
@pytest.mark.parametrize("depths", [(L, L), (0, 1)])
def test_commands_give_figures_and_numbers(study, command, depths):
    result = command.run(study(*depths), argparse.Namespace())
    assert result.figures and result.headlines and result.numbers
    assert all(np.isfinite(value) for _, value in result.headlines)
    assert all(np.isfinite(array).all() for array in result.numbers.values() if array.dtype.kind == "f")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_without_prompts_is_refused_in_one_sentence(study, command):
    with pytest.raises(UserError, match='"tuned" has no prompts.*IVLP'):
        command.run(study(trainer=bias_tuning), argparse.Namespace())


def test_orders_by_chance_are_the_same_for_every_model_and_batch_size(study, images):
    small = study()
    small.models = {name: small.plain for name in ("one", "the same")}
    measured = truth.curves(small)
    assert np.array_equal(measured["one"]["chance", ""], measured["the same"]["chance", ""])
    whole = truth.by_chance(images, M, torch.Generator().manual_seed(0))
    one_generator = torch.Generator().manual_seed(0)
    assert torch.equal(torch.cat([truth.by_chance(part, M, one_generator) for part in images.split(4)]), whole)
    assert len(whole.unique(dim=0)) > 1 and torch.equal(whole.sort(1).values, torch.arange(M).expand_as(whole))


def test_truth_takes_a_run_without_prompts(study):
    result = truth.run(study(trainer=bias_tuning), argparse.Namespace())
    assert all(0 <= value <= 100 for what, value in result.headlines if "area," in what)


def test_sampling_error_is_wilsons_interval():
    low, high = mechanism.sampling_error(np.array([0.0, 0.5, 1.0]), 10)
    assert np.allclose(low, [0, 0.5 - 0.2366, 0.2775], atol=1e-3)
    assert np.allclose(high, [0.2775, 0.5 - 0.2366, 0], atol=1e-3)
