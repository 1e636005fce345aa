"""Ablations and activation patching against the same computations written out, on small random CLIPs."""

import pytest
import torch
import torch.nn.functional as F
from prompted_clips import CLASSES, T, batch_of, deep_prompts, vision_prompts

from promptbias.interp.ablations import ABLATED, VARIANTS, variant_features, variant_outcomes
from promptbias.interp.branches import TextBranch, VisionBranch, branches_of
from promptbias.interp.prompt_term import PromptTerm

NAMES = list(VARIANTS)


@pytest.fixture
def model(tuned):
    return tuned()


def mean_u(branch, batch):
    return PromptTerm(branch).stream([batch]).mean_u()


@pytest.mark.parametrize(
    "method",
    [
        deep_prompts(),
        deep_prompts(1, 1),
        deep_prompts(0, 2),
        deep_prompts(text_prompts=6),  # no words: "X X X X X X"
        vision_prompts(),
        vision_prompts(1),
    ],
    ids=str,
)
@torch.no_grad()
def test_full_variant_is_the_intact_model(tuned, images, method):
    model = tuned(method)
    for branch in branches_of(model):
        batch = batch_of(branch, images)
        ours = variant_features(branch, batch, mean_u(branch, batch))
        intact = model.image_features(images) if branch.name == "vision" else model.text_features()
        assert torch.allclose(ours[NAMES.index("full")], intact, atol=1e-5)
        if branch.has_prompts:
            for name in NAMES[1:]:
                assert not torch.allclose(ours[NAMES.index(name)], intact, atol=1e-3), name
        else:  # nothing to take away
            assert torch.allclose(ours, intact.expand_as(ours), atol=1e-5)


@torch.no_grad()
def test_zero_ablation_is_plain_clip_without_prompts(model, sharp_clip, images):
    branch = VisionBranch(model)
    ablated = variant_features(branch, images, mean_u(branch, images))[NAMES.index("zero ablation")]
    assert torch.allclose(ablated, F.normalize(sharp_clip.encode_image(images), dim=-1), atol=1e-5)


@torch.no_grad()
def test_zero_ablation_of_text_masks_the_prompts_and_keeps_positions(model, sharp_clip):
    """Against a stock text tower that runs on the tokens left over, at their old positions."""
    branch, which = TextBranch(model), torch.arange(len(CLASSES))
    ablated = variant_features(branch, which, mean_u(branch, which))[NAMES.index("zero ablation")]
    for k, tokens in enumerate(model.text.tokens):
        eos = int(tokens.argmax())
        kept = [0, *range(1 + T, eos + 1)]
        x = sharp_clip.token_embedding(tokens[kept]) + sharp_clip.positional_embedding[kept]
        mask = torch.full((len(kept), len(kept)), -torch.inf).triu(1)
        for block in sharp_clip.transformer.resblocks:
            block.attn_mask = mask
            x = block(x[:, None])[:, 0]
        expected = F.normalize(sharp_clip.ln_final(x[-1]) @ sharp_clip.text_projection, dim=-1)
        assert torch.allclose(ablated[k], expected, atol=1e-5)


def image_attention(block, x, prompts):
    """Of tokens x (B, n, D) with `prompts` (V, D) after them: a, (1 - π) a, values of x, u."""
    D, H = x.shape[-1], block.attn.num_heads
    h = block.ln_1(torch.cat([x, prompts.expand(len(x), -1, -1)], 1))
    q, k, v = (h @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).reshape(*h.shape[:2], 3, H, D // H).unbind(2)
    e = torch.einsum("bihd,bjhd->bhij", q, k).mul((D // H) ** -0.5).exp()
    n = x.shape[1]
    inputs, to_prompts = e[:, :, :n, :n], e[:, :, :n, n:]
    total = e[:, :, :n].sum(-1, keepdim=True)
    u = torch.einsum("bhij,bjhd->bihd", to_prompts / total, v[:, n:])
    return inputs / inputs.sum(-1, keepdim=True), inputs / total, v[:, :n], u


@pytest.mark.parametrize("source", ["tuned", "base"])
@torch.no_grad()
def test_patched_attention(model, sharp_clip, images, source):
    """Three passes side by side, written out: the tuned model, plain CLIP, the variant that takes their attention."""
    ours = variant_features(VisionBranch(model), images, mean_u(VisionBranch(model), images))
    visual, prompts = sharp_clip.visual, model.adapters.vision.prompts
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    full = plain = own = visual.ln_pre(x)
    embedded = [visual.ln_pre(prompts[0]), *prompts[1:]]
    gather = lambda a, v: torch.einsum("bhij,bjhd->bihd", a, v)  # noqa: E731
    for block, p in zip(visual.transformer.resblocks, embedded):
        a_full, rescaled, v_full, u_full = image_attention(block, full, p)
        a_plain, _, v_plain, _ = image_attention(block, plain, p)
        _, _, v_own, u_own = image_attention(block, own, p)
        patched = gather(a_full, v_own) if source == "tuned" else gather(a_plain, v_own) + u_own
        gathered = (gather(rescaled, v_full) + u_full, gather(a_plain, v_plain), patched)
        x = torch.stack([full, plain, own]) + block.attn.out_proj(torch.stack(gathered).flatten(3))
        full, plain, own = x + block.mlp(block.ln_2(x))
    expected = F.normalize(visual.ln_post(own[:, 0]) @ visual.proj, dim=-1)
    variant = ours[NAMES.index(f"attention patched from the {source} model")]
    assert torch.allclose(variant, expected, atol=1e-4)
    assert torch.allclose(ours[0], F.normalize(visual.ln_post(full[:, 0]) @ visual.proj, dim=-1), atol=1e-4)


@torch.no_grad()
def test_mean_ablation_of_images_is_the_folded_model(model, sharp_clip, images):
    branch = VisionBranch(model)
    term = PromptTerm(branch).stream(images.split(4))
    ablated = variant_features(branch, images, term.mean_u())[NAMES.index("mean ablation")]
    for block, m in zip(sharp_clip.visual.transformer.resblocks, term.bias()):
        block.attn.out_proj.bias += m
    assert torch.allclose(ablated, F.normalize(sharp_clip.encode_image(images), dim=-1), atol=1e-5)


@pytest.mark.parametrize("method", [deep_prompts(), vision_prompts()], ids=str)
def test_outcomes_do_not_depend_on_batch_size(tuned, images, method):
    model = tuned(method)
    labels = torch.arange(len(images)) % len(CLASSES)
    m = {branch.name: mean_u(branch, batch_of(branch, images)) for branch in branches_of(model)}
    whole = variant_outcomes(model, m, [(images, labels)])
    assert whole.shape == (len(ABLATED), len(VARIANTS), len(images))
    assert torch.equal(whole, variant_outcomes(model, m, zip(images.split(1), labels.split(1))))
    with torch.no_grad():
        intact = model.logits(images).argmax(-1) == labels
    assert torch.equal(whole[:, 0], intact.expand(len(ABLATED), -1))
