"""LoRA, the text context, ProLIP and CLIPFit against plain computations on the stock CLIP, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptbias.model import encoder
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.clipfit import CLIPFitConfig
from promptbias.trainers.lora import LoRAConfig
from promptbias.trainers.prolip import ProLIPConfig
from promptbias.trainers.text_context import TextContextConfig
from promptbias.utils.errors import UserError

NAMES, WIDTH, JOINT, BLOCKS = ["cat", "dog", "sea lion"], 128, 32, 3
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 2, 1])


def tuned(clip_model, config, std=0.1):
    """A method around a copy of a CLIP, its parameters moved at random."""
    torch.manual_seed(1)
    model = TunedCLIP(copy.deepcopy(clip_model), NAMES, config, precision="fp32").eval()
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter += std * torch.randn_like(parameter)
    return model


def stock_logits(clip_model):
    from clip import clip

    return clip_model(IMAGES, clip.tokenize([f"a photo of a {name}." for name in NAMES]))[0]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weights=st.sets(st.sampled_from("qkvo"), min_size=1),
    rank=st.integers(1, 5),
    depths=st.tuples(st.integers(0, 3), st.integers(1, 3)),
)
@torch.no_grad()
def test_low_rank_changes_are_those_of_the_stock_weights(random_clip, weights, rank, depths):
    config = LoRAConfig(weights=tuple(weights), rank=rank, alpha=3.0, depth_vision=depths[0], depth_text=depths[1])
    model, stock = tuned(random_clip, config), copy.deepcopy(random_clip)
    branches = (
        (model.adapters.vision, stock.visual.transformer, depths[0]),
        (model.adapters.text, stock.transformer, depths[1]),
    )
    for adapter, transformer, depth in branches:
        for weight in weights:
            for i in range(depth):
                change = 3 / rank**0.5 * adapter.B[weight][i] @ adapter.A[weight][i]
                if weight == "o":
                    transformer.resblocks[i].attn.out_proj.weight += change
                else:
                    row = "qkv".index(weight) * WIDTH
                    transformer.resblocks[i].attn.in_proj_weight[row : row + WIDTH] += change
    logits = model(IMAGES)
    close(logits, stock_logits(stock))
    assert (stock_logits(model.fold()) - logits).abs().max() <= 1e-5 * logits.abs().max()


def test_lora_starts_from_zero_shot_and_drops_only_in_training(random_clip):
    model = TunedCLIP(copy.deepcopy(random_clip), NAMES, LoRAConfig(), precision="fp32").eval()
    close(model(IMAGES), stock_logits(random_clip))
    assert (
        model.adapters.trainable_parameters == 2 * BLOCKS * 3 * 2 * 2 * WIDTH
    )  # branches, blocks, q k v, A and B, rank
    assert {f"{p.abs().max():.3f}" for p in model.adapters.vision.A.values()} == {f"{WIDTH**-0.5:.3f}"}
    model = tuned(random_clip, LoRAConfig())
    assert torch.equal(model(IMAGES), model(IMAGES))
    losses = {model.train()(IMAGES, LABELS).item() for _ in range(3)}
    assert len(losses) == 3


def test_texts_in_parts_are_encoded_again_with_the_same_dropout(random_clip, monkeypatch):
    def gradients():
        model = tuned(random_clip, LoRAConfig(dropout=0.5))
        torch.manual_seed(5)
        model.train()(IMAGES, LABELS).backward()
        return [p.grad for p in model.adapters.text.parameters()]

    monkeypatch.setattr(encoder, "TEXTS_AT_ONCE", 1)
    again = gradients()
    monkeypatch.setattr(encoder, "checkpoint", lambda function, *args, **options: function(*args))
    for found, expected in zip(again, gradients(), strict=True):
        torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("ctx_init, n_ctx", [("a_photo_of_a", 16), ("", 6)])
def test_a_text_context_stands_before_the_class_name(random_clip, ctx_init, n_ctx):
    from clip import clip

    model = tuned(random_clip, TextContextConfig(ctx_init=ctx_init, n_ctx=n_ctx))
    context = model.adapters.text.prompts[0]
    words = ctx_init.replace("_", " ") or " ".join(["X"] * n_ctx)
    assert context.shape == (4 if ctx_init else n_ctx, WIDTH)
    tokens = clip.tokenize([f"{words} {name}." for name in NAMES])
    x = random_clip.token_embedding(tokens)
    x[:, 1 : 1 + len(context)] = context
    x = random_clip.transformer((x + random_clip.positional_embedding).transpose(0, 1)).transpose(0, 1)
    texts = random_clip.ln_final(x)[torch.arange(3), tokens.argmax(-1)] @ random_clip.text_projection
    close(model.text_features(), F.normalize(texts, dim=-1))
    close(model.image_features(IMAGES), F.normalize(random_clip.encode_image(IMAGES), dim=-1))


def test_a_text_context_starts_from_its_words_and_reads_coops_checkpoints(random_clip):
    model = tuned(random_clip, TextContextConfig(), std=0)
    close(model(IMAGES), stock_logits(random_clip))
    assert model.label == "text context 4"
    theirs = {"ctx": torch.randn(4, WIDTH).half(), "token_prefix": torch.zeros(3, 1), "token_suffix": torch.zeros(3, 1)}
    converted = model.method.convert_state(theirs)
    model.adapters.load_state_dict(converted)
    assert torch.equal(model.adapters.text.prompts[0].half(), theirs["ctx"])
    with pytest.raises(UserError, match="does not fold"):
        model.fold()


@torch.no_grad()
def test_prolip_changes_the_visual_projection(random_clip):
    model, stock = tuned(random_clip, ProLIPConfig()), copy.deepcopy(random_clip)
    assert {name: p.shape for name, p in model.adapters.named_parameters()} == {"vision.change": (WIDTH, JOINT)}
    stock.visual.proj += model.adapters.vision.change
    logits = model(IMAGES)
    close(logits, stock_logits(stock))
    with model.base():
        close(model(IMAGES), stock_logits(random_clip))
    close(stock_logits(model.fold()), logits)


def test_prolips_penalty_is_weight_decay(random_clip):
    """One step of SGD with decay 2 lambda is one on cross-entropy + lambda ‖P − P₀‖²."""
    rate, penalty = 0.1, 0.0625
    stock, model = copy.deepcopy(random_clip), tuned(random_clip, ProLIPConfig())
    projection = (random_clip.visual.proj + model.adapters.vision.change).detach().requires_grad_()
    stock.visual.proj = torch.nn.Parameter(torch.eye(WIDTH))
    features = F.normalize(stock.encode_image(IMAGES) @ projection, dim=-1)
    texts = model.text_features().detach()
    loss = F.cross_entropy(model.logit_scale * features @ texts.t(), LABELS)
    loss = loss + penalty * (projection - random_clip.visual.proj).square().sum()
    (gradient,) = torch.autograd.grad(loss, projection)
    optimizer = torch.optim.SGD(model.adapters.parameters(), lr=rate, weight_decay=2 * penalty)
    model.train()(IMAGES, LABELS).backward()
    optimizer.step()
    tuned_projection = random_clip.visual.proj + model.adapters.vision.change
    torch.testing.assert_close(tuned_projection, projection - rate * gradient, rtol=1e-4, atol=1e-5)


def test_clipfit_trains_text_biases_and_image_layer_norms_beside_its_consistency_term(random_clip):
    model = tuned(random_clip, CLIPFitConfig())
    assert model.adapters.trainable_parameters == BLOCKS * WIDTH + 2 * (2 * BLOCKS + 2) * WIDTH
    logits, texts = model(IMAGES), model.text_features()
    with model.base():
        cos = (texts * model.text_features()).sum(-1)
    expected = F.cross_entropy(logits, LABELS) + 8 * (1 - cos.mean())
    torch.testing.assert_close(model.train()(IMAGES, LABELS), expected)
    close(stock_logits(model.eval().fold()), logits)


@pytest.mark.parametrize(
    "config, said",
    [
        (LoRAConfig(rank=0), "RANK is 0, but must be at least 1"),
        (LoRAConfig(dropout=1.0), "DROPOUT is 1.0, but must be at least 0 and below 1"),
        (LoRAConfig(weights=("q", "w")), "must be some of q, k, v, o"),
        (LoRAConfig(depth_text=0, depth_vision=0), "nothing to train"),
        (LoRAConfig(depth_text=4), "DEPTH_TEXT is 4"),
        (TextContextConfig(ctx_init="", n_ctx=0), "N_CTX is 0, but at least 1"),
        (TextContextConfig(ctx_init="", n_ctx=75), "longer than CLIP's 77 tokens"),
        (TextContextConfig(ctx_init="a {} photo"), "needs one {}"),
    ],
)
def test_options_that_do_not_fit_are_refused(random_clip, config, said):
    with pytest.raises(UserError) as refused:
        tuned(random_clip, config)
    assert said in str(refused.value)
