"""What IVLP and BiasTuning compute, against plain loops over the stock CLIP's own modules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from versions import needs_half

from promptbias.trainers import bias_tuning, ivlp, zeroshot
from promptbias.utils.errors import UserError

NAMES = ["Annual Crop Land", "Forest", "Highway or Road", "Sea_or_Lake"]
TEMPLATE = "a centered satellite photo of {}."


def tokens_of(texts):
    from clip import clip

    return clip.tokenize(texts).long()


def plain_blocks(tower, x, before, after):
    """(B, N, D) through the stock blocks, with something done before and after each."""
    for i, block in enumerate(tower.resblocks):
        x = after(i, block(before(i, x).transpose(0, 1)).transpose(0, 1))
    return x


def plain_image(clip_model, image, start, before, after):
    v = clip_model.visual
    x = v.conv1(image).flatten(2).transpose(1, 2)
    x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], 1) + v.positional_embedding
    x = plain_blocks(v.transformer, v.ln_pre(start(x)), before, after)
    return v.ln_post(x[:, 0]) @ v.proj


def plain_text(clip_model, tokens, start, before, after):
    """All 77 positions of every class."""
    x = start(clip_model.token_embedding(tokens)) + clip_model.positional_embedding
    x = plain_blocks(clip_model.transformer, x, before, after)
    return clip_model.ln_final(x)[torch.arange(len(x)), tokens.argmax(-1)] @ clip_model.text_projection


def plain_logits(clip_model, image_features, text_features):
    return clip_model.logit_scale.exp() * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).t()


def same(x):
    return x


def unchanged(i, x):
    return x


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 32, 32, generator=generator), torch.tensor([0, 3, 1])


def test_zero_shot_is_the_stock_clip(small_clip, config, batch):
    model = zeroshot.CustomCLIP(config("ZEROSHOTCLIP.TEMPLATE", TEMPLATE), NAMES, copy.deepcopy(small_clip))
    tokens = tokens_of([TEMPLATE.format(name.replace("_", " ")) for name in NAMES])
    expected, _ = small_clip(batch[0], tokens)
    torch.testing.assert_close(model.eval()(batch[0]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vision_depth, text_depth", [(3, 3), (2, 1), (0, 3)])
def test_bias_is_added_to_every_token_after_each_block(small_clip, config, batch, vision_depth, text_depth):
    cfg = config(
        "BIASTUNING.DEPTH_VISION",
        vision_depth,
        "BIASTUNING.DEPTH_TEXT",
        text_depth,
        "BIASTUNING.INIT_STD",
        0.3,
        "BIASTUNING.TEMPLATE",
        TEMPLATE,
    )
    model = bias_tuning.CustomCLIP(cfg, NAMES, copy.deepcopy(small_clip))
    biases = {"vision": model.adapters.vision.bias, "text": model.adapters.text.bias}
    assert biases["vision"].shape == (vision_depth, 128) and biases["text"].shape == (text_depth, 128)

    plain = {name: bias.detach().clone().requires_grad_() for name, bias in biases.items()}
    add = {name: lambda i, x, b=b: x + b[i] if i < len(b) else x for name, b in plain.items()}
    tokens = tokens_of([TEMPLATE.format(name.replace("_", " ")) for name in NAMES])
    expected = plain_logits(
        small_clip,
        plain_image(small_clip, batch[0], same, unchanged, add["vision"]),
        plain_text(small_clip, tokens, same, unchanged, add["text"]),
    )

    torch.testing.assert_close(model.eval()(batch[0]), expected, rtol=1e-4, atol=1e-4)
    loss = model.train()(*batch)
    loss.backward()
    wanted = F.cross_entropy(expected, batch[1])
    wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)
    for name, bias in biases.items():
        if len(bias):
            torch.testing.assert_close(bias.grad, plain[name].grad, rtol=1e-3, atol=1e-5)


@torch.no_grad()  # as in evaluation: with gradients other kernels compute the same up to rounding
def test_bias_tuning_starts_from_zero_shot_clip(small_clip, config, batch):
    tuned = bias_tuning.CustomCLIP(config("BIASTUNING.TEMPLATE", TEMPLATE), NAMES, copy.deepcopy(small_clip))
    plain = zeroshot.CustomCLIP(config("ZEROSHOTCLIP.TEMPLATE", TEMPLATE), NAMES, small_clip)
    assert torch.equal(tuned.eval()(batch[0]), plain.eval()(batch[0]))


def test_folded_biases_leave_a_stock_clip(small_clip, config, batch):
    cfg = config("BIASTUNING.INIT_STD", 0.3, "BIASTUNING.TEMPLATE", TEMPLATE)
    model = bias_tuning.CustomCLIP(cfg, NAMES, small_clip).eval()
    with torch.no_grad():
        tuned = model(batch[0])
        stock = model.fold()
        tokens = tokens_of([TEMPLATE.format(name.replace("_", " ")) for name in NAMES])
        torch.testing.assert_close(stock(batch[0], tokens)[0], tuned, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(batch[0]), tuned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "ctx_init, T, V, vision_depth, text_depth",
    [
        ("a photo of a", 4, 3, 3, 3),
        ("a photo of a", 1, 1, 2, 1),
        ("a photo of a", 6, 2, 1, 2),  # more than four: placeholders instead of words
        ("", 2, 2, 0, 3),
    ],
)
def test_prompts_are_replaced_in_front_of_each_block(
    small_clip, config, batch, ctx_init, T, V, vision_depth, text_depth
):
    cfg = config(
        "IVLP.CTX_INIT",
        ctx_init,
        "IVLP.N_CTX_TEXT",
        T,
        "IVLP.N_CTX_VISION",
        V,
        "IVLP.PROMPT_DEPTH_VISION",
        vision_depth,
        "IVLP.PROMPT_DEPTH_TEXT",
        text_depth,
    )
    model = ivlp.CustomCLIP(cfg, NAMES, copy.deepcopy(small_clip))
    trainable = dict(model.adapters.named_parameters())
    assert trainable["text.prompts"].shape == (text_depth, T, 128)
    assert ("vision.prompts" in trainable) == (vision_depth > 0)
    plain = {name: p.detach().clone().requires_grad_() for name, p in trainable.items()}
    text, vision = plain["text.prompts"], plain.get("vision.prompts", torch.zeros(0, V, 128))
    M = 16

    def put_text(i, x):
        return torch.cat([x[:, :1], text[i].expand(len(x), -1, -1), x[:, 1 + T :]], 1) if i < text_depth else x

    def put_vision(i, x):
        return torch.cat([x[:, : 1 + M], vision[i].expand(len(x), -1, -1)], 1) if i < vision_depth else x

    words = ctx_init if ctx_init and T <= 4 else " ".join(["X"] * T)
    tokens = tokens_of([f"{words} {name.replace('_', ' ')}." for name in NAMES])

    def after_first(put):
        return lambda i, x: put(i, x) if i else x

    expected = plain_logits(
        small_clip,
        plain_image(small_clip, batch[0], lambda x: put_vision(0, x), after_first(put_vision), unchanged),
        plain_text(small_clip, tokens, lambda x: put_text(0, x), after_first(put_text), unchanged),
    )

    torch.testing.assert_close(model.eval()(batch[0]), expected, rtol=1e-4, atol=1e-4)
    model.train()(*batch).backward()
    F.cross_entropy(expected, batch[1]).backward()
    for name, parameter in trainable.items():
        torch.testing.assert_close(parameter.grad, plain[name].grad, rtol=1e-3, atol=1e-5)


def test_first_text_prompts_start_from_the_words_of_ctx_init(small_clip, config):
    model = ivlp.CustomCLIP(config("IVLP.CTX_INIT", "a_photo_of_a", "IVLP.N_CTX_TEXT", 3), NAMES, small_clip)
    words = small_clip.token_embedding(tokens_of(["a photo of a"])[0, 1:4])
    assert torch.equal(model.adapters.text.prompts[0], words)
    assert model.adapters.text.prompts[1:].std().item() == pytest.approx(0.02, rel=0.2)


def test_text_is_encoded_once_until_something_changes(small_clip, config, batch):
    model = bias_tuning.CustomCLIP(config(), NAMES, small_clip).eval()
    encoded = []
    model.text.register_forward_hook(lambda *_: encoded.append(1))
    with torch.no_grad():
        model(batch[0]), model(batch[0])
        assert len(encoded) == 1
        model.adapters.text.bias += 1
        changed = model(batch[0])
        assert len(encoded) == 2
        model.text.clip.token_embedding.weight *= 2
        changed = model(batch[0])
        assert len(encoded) == 3
    torch.testing.assert_close(model(batch[0]), changed)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=needs_half), "amp"])
def test_lower_precision_stays_close_and_trains_in_float32(small_clip, config, batch, precision):
    exact = bias_tuning.CustomCLIP(config(), NAMES, copy.deepcopy(small_clip))
    model = bias_tuning.CustomCLIP(config("BIASTUNING.PREC", precision), NAMES, small_clip)
    torch.testing.assert_close(model.eval()(batch[0]), exact.eval()(batch[0]), rtol=0.1, atol=0.5)
    model.train()(*batch).backward()
    assert model.adapters.vision.bias.dtype == model.adapters.vision.bias.grad.dtype == torch.float32
    assert model.adapters.text.bias.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "module, pairs, said",
    [
        (bias_tuning, ("BIASTUNING.DEPTH_VISION", 4), "DEPTH_VISION is 4, but must be between 0 and 3"),
        (bias_tuning, ("BIASTUNING.DEPTH_VISION", 0, "BIASTUNING.DEPTH_TEXT", 0), "nothing to train"),
        (bias_tuning, ("BIASTUNING.PREC", "fp8"), "must be one of auto, fp32"),
        (bias_tuning, ("BIASTUNING.TEMPLATE", "a photo"), "needs one {}"),
        (ivlp, ("IVLP.PROMPT_DEPTH_TEXT", 0), "PROMPT_DEPTH_TEXT is 0, but must be between 1 and 3"),
        (ivlp, ("IVLP.PROMPT_DEPTH_VISION", 9), "PROMPT_DEPTH_VISION is 9"),
        (ivlp, ("IVLP.N_CTX_TEXT", 0), "at least 1 text prompt"),
        (ivlp, ("IVLP.N_CTX_VISION", 0), "set PROMPT_DEPTH_VISION to 0"),
        (ivlp, ("IVLP.CTX_INIT", "photo", "IVLP.N_CTX_TEXT", 4), "fewer than N_CTX_TEXT = 4"),
        (ivlp, ("IVLP.N_CTX_TEXT", 75), '"Annual Crop Land" is longer than CLIP\'s 77'),
    ],
)
def test_what_does_not_fit_is_refused(small_clip, config, module, pairs, said):
    with pytest.raises(UserError) as refused:
        module.CustomCLIP(config(*pairs), NAMES, small_clip)
    assert said in str(refused.value)


def test_every_block_has_a_bias_unless_a_depth_is_given(small_clip, config):
    model = bias_tuning.CustomCLIP(config("BIASTUNING.DEPTH_TEXT", -1, "BIASTUNING.DEPTH_VISION", 2), NAMES, small_clip)
    assert len(model.adapters.text.bias) == 3 and len(model.adapters.vision.bias) == 2


def test_no_ctx_init_is_an_empty_one(small_clip, config):
    cfg = config()
    cfg.TRAINER.IVLP.CTX_INIT = None
    assert ivlp.CustomCLIP(cfg, NAMES, small_clip).template == "X X X X {}."


def test_a_resnet_clip_is_refused(config):
    from clip.model import CLIP

    resnet = CLIP(32, 32, (1, 1, 1, 1), 16, None, 77, 100, 64, 1, 1)
    with pytest.raises(UserError, match="ViT"):
        bias_tuning.CustomCLIP(config(), NAMES, resnet)


def test_an_image_size_that_does_not_fit_is_refused(small_clip, config):
    cfg = config()
    cfg.INPUT.SIZE = (224, 224)
    with pytest.raises(UserError, match=r"\(224, 224\).*\(32, 32\)"):
        bias_tuning.CustomCLIP(cfg, NAMES, small_clip)
