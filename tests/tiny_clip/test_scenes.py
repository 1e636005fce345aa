"""The second small CLIP: scenes and captions that agree, four heads from two, a loss, and a training that resumes."""

import os
import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from clip import tokenize
from clip.model import CLIP, build_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import promptbias
from promptbias import tiny_clip
from promptbias.tiny_clip import WEIGHTS, evaluate, grammar, pretrain, pretrain_scenes
from promptbias.tiny_clip.captions import DIGITS
from promptbias.tiny_clip.grammar import COLOURS, NAMES, SHAPES, Scene, caption
from promptbias.tiny_clip.scenes import RGB, Scenes
from promptbias.utils.errors import UserError

SEVEN = Scene("seven", "digit", "red", "plain", "small", "left", "clean")


@pytest.fixture(scope="module")
def scenes():
    return Scenes()


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None)
def test_captions_say_what_is_there_in_known_words(seed):
    choose = random.Random(seed)
    scene = Scenes.scene(choose.randrange(36), False, choose)
    text = caption(scene, choose)
    tokens = tokenize([text])[0]
    assert 3 <= int(tokens.argmax()) + 1 <= 60
    assert set(tokens.tolist()) <= set(tokenize(grammar.words()).flatten().tolist())
    words = text.replace(",", " ").replace(".", " ").split()
    assert scene.name in words
    assert set(words) & {*COLOURS} - {"white", "black"} <= {scene.colour, *scene.other.split()}  # those are fillers too
    assert set(words) & {*SHAPES} <= {*scene.other.split()}


def test_frequent_things_come_first():
    choose = random.Random(0)
    counts = Counter(grammar.zipf(choose, "abcd") for _ in range(4000))
    shares = [counts[letter] / 4000 for letter in "abcd"]
    expected = [1 / n / sum(1 / k for k in (1, 2, 3, 4)) for n in (1, 2, 3, 4)]
    assert shares == pytest.approx(expected, abs=0.03)


def test_a_batch_depends_on_its_seed_alone(scenes):
    first, again, other = (scenes(12, 1.0, 1.0, seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images) and first.scenes == again.scenes
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (12, 3, 64, 64) and first.images.min() >= 0 and first.images.max() <= 1
    assert [NAMES[label] for label in first.labels] == [scene.name for scene in first.scenes]


def test_without_variety_all_images_are_light_ink_on_black(scenes):
    drawn = scenes(24, 0.5, 0.0, 1)
    assert torch.equal(drawn.images[:, 0], drawn.images[:, 1]) and (drawn.images < 0.05).float().mean() > 0.4
    assert {scene.colour for scene in drawn.scenes} == {"white"}


def test_ink_has_its_colour_and_place(scenes):
    ink = scenes.glyphs[:1, 7]
    for place, sign in (("left", -1), ("right", 1)):
        scene = Scene(**{**vars(SEVEN), "place": place})
        where = Scenes.place(ink, [scene], torch.Generator().manual_seed(0))[0, 0]
        centre = (where * scenes.x).sum() / where.sum()
        assert sign * centre > 0.1
    choose, draw = random.Random(0), torch.Generator().manual_seed(0)
    picture = scenes.compose(ink, torch.tensor([False]), [Scene(**{**vars(SEVEN), "colour": "yellow"})], draw, choose)[
        0
    ]
    mask = Scenes.place(ink, [SEVEN], torch.Generator().manual_seed(0))[0, 0] > 0.9
    assert (picture[:, mask].mean(1) - RGB[COLOURS.index("yellow")]).abs().max() < 0.25


def test_equal_halves_of_a_head_make_two_heads_that_attend_alike():
    """Then each half's product is half the whole, and longer queries make up for both that and the other divisor."""
    torch.manual_seed(0)
    clip = CLIP(**{**pretrain.ARCHITECTURE, "vision_layers": 2, "transformer_layers": 2, "vocab_size": 50}).eval()
    clip.initialize_parameters()
    with torch.no_grad():
        for transformer in (clip.visual.transformer, clip.transformer):
            for block in transformer.resblocks:
                for matrix in block.attn.in_proj_weight.view(3, 2, 2, 32, 128)[:2]:
                    matrix[:, 1] = matrix[:, 0]
        images, tokens = torch.randn(2, 3, 64, 64), torch.randint(0, 50, (2, 77))
        before = clip.encode_image(images), clip.encode_text(tokens)
        pretrain_scenes.split_heads(clip)
        after = clip.encode_image(images), clip.encode_text(tokens)
    assert clip.visual.transformer.resblocks[0].attn.num_heads == clip.transformer.resblocks[0].attn.num_heads == 4
    for a, b in zip(before, after):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_equal_captions_are_no_negatives_of_each_other():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    loss = pretrain_scenes.contrast(logits, ["a", "b", "a", "c"])
    rows, columns = [], []
    for i, others in enumerate(([0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3])):
        rows.append(logits[i, others].logsumexp(0) - logits[i, i])
        columns.append(logits[others, i].logsumexp(0) - logits[i, i])
    assert loss.item() == pytest.approx((torch.stack(rows).mean() + torch.stack(columns).mean()).item() / 2, rel=1e-5)


@pytest.mark.slow
def test_a_training_that_resumes_ends_with_the_same_weights(tmp_path):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    pretrain.pretrain(pretrain_scenes.ScenePretraining(2, 2, 1e-4, 2, WEIGHTS), 1, str(whole))
    run = pretrain_scenes.ScenePretraining(2, 2, 1e-4, 2, WEIGHTS)
    run.step(0)
    run.save_state(f"{broken}.state", 1)
    pretrain.pretrain(pretrain_scenes.ScenePretraining(2, 2, 1e-4, 2, WEIGHTS), 1, str(broken))
    expected, found = load_file(whole), load_file(broken)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.safetensors", "whole.safetensors"]


def test_known_words_start_from_the_weights_and_new_ones_differ():
    run = pretrain_scenes.ScenePretraining(1, 2, 1e-4, 1, WEIGHTS)
    rows, stored = run.clip.token_embedding.weight.detach(), load_file(WEIGHTS)
    ids = stored["token_ids"].long()
    both = torch.isin(run.rows, ids)
    assert torch.equal(rows[both], stored["token_embedding.weight"].float()[torch.isin(ids, run.rows)])
    assert len(rows.unique(dim=0)) == len(rows) and int((~both).sum()) > 20


def test_sos_attention_is_that_of_the_blocks_themselves():
    torch.manual_seed(0)
    clip = CLIP(**{**pretrain.ARCHITECTURE, "vision_layers": 1, "transformer_layers": 2}).eval()
    clip.initialize_parameters()
    found = []
    mask = clip.transformer.resblocks[0].attn_mask
    tokens = tokenize([evaluate.GLYPH.format(name) for name in [*DIGITS, *"abcdefghijklmnopqrstuvwxyz"]])
    with torch.no_grad():
        shares = evaluate.sos_attention(clip)
        x = (clip.token_embedding(tokens) + clip.positional_embedding).transpose(0, 1)
        for block in clip.transformer.resblocks:
            y = block.ln_1(x)
            found.append(block.attn(y, y, y, average_attn_weights=False, attn_mask=mask)[1])
            x = block(x)
    rows, eos = torch.arange(len(tokens)), tokens.argmax(-1)
    expected = torch.stack([weights[rows, :, eos, 0].mean(0) for weights in found])
    assert shares.shape == (2, 2) and torch.allclose(shares, expected, atol=1e-6)


def test_held_out_images_are_what_they_say():
    pixels, labels = evaluate.in_held_out_colours()
    colours = torch.tensor(list(evaluate.HELD_OUT_COLOURS.values()))
    assert pixels.shape == (evaluate.COUNT, 3, 64, 64) and sorted(labels.unique().tolist()) == list(range(36))
    brightest = F.normalize(pixels.flatten(2).sum(-1), dim=-1)
    assert (brightest @ F.normalize(colours, dim=-1).T).amax(-1).min() > 0.999
    trained = F.normalize(RGB, dim=-1) @ F.normalize(colours, dim=-1).T
    assert trained.max() < 0.97  # none of the trained colours is one of them


def test_wilsons_interval_against_its_defining_equation():
    for share, count in ((0.1, 50), (0.5, 720), (0.98, 30)):
        for end in evaluate.wilson(share, count):
            assert abs(share - end) == pytest.approx(1.96 * (end * (1 - end) / count) ** 0.5, rel=1e-6)


@pytest.mark.slow
def test_the_backbone_has_four_heads_and_computes_what_openais_class_computes_with_them():
    """Against `torch.nn.MultiheadAttention` in OpenAI's class, told its heads by hand."""
    ours = promptbias.load_clip("tiny_scenes")
    plain = build_model(tiny_clip.state_dict(tiny_clip.SCENES)).float()
    for block in (*plain.visual.transformer.resblocks, *plain.transformer.resblocks):
        block.attn.num_heads, block.attn.head_dim = 4, 32
    model = promptbias.build(
        "ZeroshotCLIP", ["three", "seven"], "tiny_scenes", template="a photo of the digit {}.", precision="fp32"
    )
    assert model.vision.heads == model.text.heads == 4
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for clip in (ours, plain):
            expected = F.normalize(clip.encode_image(images), dim=-1)
            assert torch.allclose(model.image_features(images), expected, atol=1e-5)
            texts = clip.encode_text(tokenize(["a photo of the digit three.", "a photo of the digit seven."]))
            assert torch.allclose(model.text_features(), F.normalize(texts, dim=-1), atol=1e-5)


def test_what_cannot_say_four_heads_is_refused(tmp_path):
    model = promptbias.build("ZeroshotCLIP", ["three", "seven"], backbone="tiny_scenes", precision="fp32")
    with pytest.raises(UserError, match="heads of width 64 only; take --to open_clip or hf"):
        promptbias.export(model, "clip", tmp_path / "out", images=[Image.new("RGB", (64, 64))] * 2)


@pytest.mark.slow
def test_it_is_small_and_knows_more_than_the_first():
    assert os.path.getsize(tiny_clip.SCENES) < 8e6
    pixels, labels = evaluate.on_held_out_texture()
    known = []
    for clip in (promptbias.load_clip(name) for name in ("tiny", "tiny_scenes")):
        images = evaluate.image_features(clip, pixels[:72])
        known.append(evaluate.accuracy(images, evaluate.text_features(clip, evaluate.GLYPH, [*NAMES]), labels[:72]))
    assert known[1] > known[0] + 0.1
