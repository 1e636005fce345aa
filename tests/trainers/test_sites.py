"""Bias tuning at every site: where biases go, that every set of them folds into a stock CLIP, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptbias.model.biases import SITES
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.utils.errors import UserError

NAMES, WIDTH, JOINT, BLOCKS = ["cat", "dog", "sea lion"], 128, 32, 3
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 2, 1])
NORMS = {"vision": 2 * BLOCKS + 2, "text": 2 * BLOCKS + 1}


def tuned(clip_model, **options):
    """Bias tuning around a copy of a CLIP, the biases drawn at random."""
    config = BiasTuningConfig(**{"init_std": 0.2, **options})
    return TunedCLIP(copy.deepcopy(clip_model), NAMES, config, precision="fp32").eval()


def stock_logits(clip_model, images=IMAGES):
    from clip import clip

    return clip_model(images, clip.tokenize([f"a photo of a {name}." for name in NAMES]))[0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@torch.no_grad()
def test_any_biases_at_any_depth_fold_into_a_stock_clip(random_clip, data):
    names = st.sampled_from([*SITES, *(f"{branch}.{site}" for branch in ("vision", "text") for site in SITES)])
    sites = data.draw(st.sets(names, min_size=1))
    depths = {f"depth_{branch}": data.draw(st.integers(1, BLOCKS)) for branch in ("vision", "text")}
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = tuned(random_clip, sites=tuple(sites), **depths)
    assert all(bool(parameter.any()) for parameter in model.adapters.parameters())
    logits = model(IMAGES)
    folded = stock_logits(model.fold())
    assert (folded - logits).abs().max() <= 1e-5 * logits.abs().max()
    torch.testing.assert_close(model(IMAGES), folded, rtol=1e-4, atol=1e-4)


def in_the_stock_clip(blocks, site, i):
    """What of block i a site changes, as views of the stock CLIP's own parameters."""
    block = blocks[i]
    third = {"q": 0, "k": 1, "v": 2}
    if site in third:
        return [(f"{site}@{i}", block.attn.in_proj_bias[third[site] * WIDTH : (third[site] + 1) * WIDTH])]
    if site.startswith("ln"):
        kind = site.removeprefix("ln.")
        return [(f"{norm}_{kind}@{i}", getattr(getattr(block, norm), kind)) for norm in ("ln_1", "ln_2")]
    if site == "attn.out":
        return [(f"attn_out_proj_bias@{i}", block.attn.out_proj.bias)]
    return [(f"mlp_c_fc_bias@{i}", block.mlp.c_fc.bias)]


@pytest.mark.parametrize("site", [site for site in SITES if site not in ("block", "features")])
@torch.no_grad()
def test_a_bias_is_added_where_its_site_says(random_clip, site):
    model, stock = tuned(random_clip, sites=(f"text.{site}",), depth_text=2), copy.deepcopy(random_clip)
    changes = dict(model.adapters.text.changes.items())
    for i in range(2):
        for key, parameter in in_the_stock_clip(stock.transformer.resblocks, site, i):
            parameter += changes.pop(key)
    if site.startswith("ln"):
        kind = site.removeprefix("ln.")
        getattr(stock.ln_final, kind).add_(changes.pop(f"ln_final_{kind}@-1"))
    assert not changes and not list(model.adapters.vision.parameters())
    torch.testing.assert_close(model(IMAGES), stock_logits(stock), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_shift_of_the_features_is_added_before_they_are_normalised(random_clip):
    model = tuned(random_clip, sites=("vision.features",))
    shifted = random_clip.encode_image(IMAGES) + model.adapters.vision.changes["features"]
    assert model.adapters.vision.changes["features"].shape == (JOINT,)
    torch.testing.assert_close(model.image_features(IMAGES), F.normalize(shifted, dim=-1), rtol=1e-4, atol=1e-5)


def test_a_bias_on_the_keys_can_do_nothing(random_clip):
    model = tuned(random_clip, sites=("q", "k", "v"), init_std=0.0)
    model.train()(IMAGES, LABELS).backward()
    gradients = {
        site: max(change.grad.abs().max() for key, change in adapter.changes.items() if key.startswith(site))
        for adapter in (model.adapters.vision, model.adapters.text)
        for site in "qkv"
    }
    assert gradients["k"] < 1e-5 * gradients["q"] and gradients["k"] < 1e-5 * gradients["v"]
    with torch.no_grad():
        before = model.eval()(IMAGES)
        for key, change in model.adapters.vision.changes.items():
            change += key.startswith("k")
        torch.testing.assert_close(model(IMAGES), before, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_stock_clips_own_parameters(random_clip):
    stock = copy.deepcopy(random_clip)
    F.cross_entropy(stock_logits(stock), LABELS).backward()
    model = tuned(random_clip, sites=("v", "mlp.hidden", "ln.weight"), init_std=0.0)
    model.train()(IMAGES, LABELS).backward()
    block = stock.visual.transformer.resblocks[1]
    changes = model.adapters.vision.changes
    expected = {
        "v@1": block.attn.in_proj_bias.grad[2 * WIDTH :],
        "mlp_c_fc_bias@1": block.mlp.c_fc.bias.grad,
        "ln_2_weight@1": block.ln_2.weight.grad,
    }
    for key, gradient in expected.items():
        torch.testing.assert_close(changes[key].grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "sites, vision, text",
    [
        (("block",), BLOCKS * WIDTH, BLOCKS * WIDTH),
        (("v",), BLOCKS * WIDTH, BLOCKS * WIDTH),
        (("vision.ln.weight", "vision.ln.bias", "text.block"), 2 * NORMS["vision"] * WIDTH, BLOCKS * WIDTH),
        (("mlp.hidden", "vision.features"), 4 * BLOCKS * WIDTH + JOINT, 4 * BLOCKS * WIDTH),
        (("ln.bias", "text.ln.weight"), NORMS["vision"] * WIDTH, 2 * NORMS["text"] * WIDTH),
    ],
)
def test_only_what_is_named_is_trained(random_clip, sites, vision, text):
    model = tuned(random_clip, sites=sites, init_std=0.0)
    counts = [sum(p.numel() for p in branch.parameters()) for branch in (model.adapters.vision, model.adapters.text)]
    assert counts == [vision, text]


def test_the_default_is_the_papers_bias_under_its_old_names(random_clip):
    model = tuned(random_clip)
    assert {name: p.shape for name, p in model.adapters.state_dict().items()} == {
        "vision.bias": (BLOCKS, WIDTH),
        "text.bias": (BLOCKS, WIDTH),
    }
    assert model.label == "bias" and tuned(random_clip, sites=("v", "block")).label == "bias at v, block"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"sites": ("value",)}, 'SITES names "value", which is no site'),
        ({"sites": ("vision.atn.out",)}, 'did you mean "vision.attn.out"'),
        ({"sites": ()}, "leaves nothing to train"),
        ({"sites": ("text.v",), "depth_text": 0}, "leaves nothing to train"),
    ],
)
def test_sites_that_are_none_are_refused(random_clip, options, said):
    with pytest.raises(UserError) as refused:
        tuned(random_clip, **options)
    assert said in str(refused.value)


def test_a_shift_that_would_not_fold_is_refused(small_clip):
    with torch.no_grad():
        small_clip.visual.proj[:, 0] = small_clip.visual.proj[:, 1]
    with pytest.raises(UserError, match=r'reaches 31 dimensions; take the site "ln.bias"'):
        tuned(small_clip, sites=("features",))
    tuned(small_clip, sites=("text.features",))
