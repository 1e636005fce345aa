"""Deletion of patches, orders of deletion, and the areas under deletion curves."""

import numpy as np
import pytest
import torch
from prompted_clips import CLASSES, M, deep_prompts, vision_prompts

from promptbias.interp import deletion, faithfulness
from promptbias.interp.branches import BASE, VisionBranch
from promptbias.interp.deletion import DropPatches, Judge
from promptbias.interp.faithfulness import FRACTIONS, LEAST, MOST, RANDOM
from promptbias.interp.relevancy import relevancy
from promptbias.model.adapter import Adapter
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.ln_tuning import LNTuningConfig
from promptbias.trainers.zeroshot import ZeroshotConfig


class QueryBias(Adapter):
    """Attaches to a named point inside of the blocks, and to a parameter."""

    attaches_to = ("attn.q", "ln_2.weight")

    def on_activation(self, point, i, x, source):
        return x + 0.3 * (i + 1)

    def parameter(self, name, i, frozen):
        return 1.5 * frozen


METHODS = {
    "prompts": deep_prompts(),
    "shallow prompts": deep_prompts(1),
    "vision prompts": vision_prompts(2),
    "biases": BiasTuningConfig(),
    "layer norm": LNTuningConfig(),
}


def without(columns):
    """A hook that takes `columns` (B, n) out of attention patterns, and renormalises the rest."""

    def masked(pattern, point):
        pattern = pattern.clone()
        for of_image, gone in zip(pattern, columns):
            of_image[:, :, gone] = 0
        return pattern / pattern.sum(-1, keepdim=True)

    return masked


@pytest.mark.parametrize("kind", [*METHODS, "plain", "points and parameters"])
@torch.no_grad()
def test_dropped_patches_are_as_masked_ones(tuned, images, kind):
    branch = VisionBranch(tuned(METHODS.get(kind)))
    adapter = {"plain": BASE, "points and parameters": QueryBias()}.get(kind, branch.adapter)
    torch.manual_seed(4)
    order = torch.stack([torch.randperm(M) for _ in images])
    for gone in (0, 5, M - 1, M):
        rows = torch.cat([torch.zeros(len(images), 1, dtype=torch.long), 1 + order[:, gone:]], 1)
        dropped = branch.features(images, adapter=DropPatches(adapter, rows, M))
        with branch.tower.hooked({"blocks.*.attn.pattern": without(1 + order[:, :gone])}):
            masked = branch.features(images, adapter=adapter)
        assert torch.allclose(dropped, masked, atol=1e-5)


def test_dropping_patches_delegates_all_that_an_adapter_does():
    """So that a method that attaches in a way of its own is not silently left out."""
    own = vars(DropPatches)
    methods = {name for name, value in vars(Adapter).items() if callable(value) and not name.startswith("__")}
    derived = {"attached"}  # follows from `attaches_to`
    assert methods - derived <= set(own)
    wrapped = DropPatches(QueryBias(), torch.zeros(1, 3, dtype=torch.long), M)
    attributes = {name for name, value in vars(Adapter).items() if not callable(value) and not name.startswith("_")}
    for name in attributes:
        assert getattr(wrapped, name) == getattr(QueryBias(), name), name


@torch.no_grad()
def test_deletion_starts_at_the_whole_image_and_follows_the_map(tuned, images):
    model = tuned()
    labels, texts = torch.arange(len(images)) % len(CLASSES), model.text_features()
    maps = {"ramp": torch.arange(M).float().expand(len(images), M)}
    random = faithfulness.random_orders(images, M, torch.Generator().manual_seed(0))
    orders = faithfulness.deletion_orders(maps, random)
    assert orders["ramp", MOST][0, 0] == M - 1 and orders["ramp", LEAST][0, 0] == 0
    tokens = model.vision.embed(images)
    outcomes = faithfulness.deletion_outcomes(Judge(model), model, tokens, labels, orders, texts)
    intact = model.logits(images).argmax(-1) == labels
    empty = outcomes[RANDOM,][-1]
    assert all(torch.equal(found[0], intact) and torch.equal(found[-1], empty) for found in outcomes.values())
    assert outcomes.keys() == orders.keys() and outcomes[RANDOM,].shape == (len(FRACTIONS), len(images))


@torch.no_grad()
def test_outcomes_are_those_of_one_image_and_one_order_at_a_time(tuned, images):
    """With orders that are equal for some images, which are followed once, and masks in place of dropped tokens."""
    model, labels = tuned(), torch.arange(len(images)) % len(CLASSES)
    torch.manual_seed(5)
    orders = {("a", MOST): torch.rand(len(images), M).argsort(1), ("b", MOST): torch.rand(len(images), M).argsort(1)}
    orders["b", MOST][:3] = orders["a", MOST][:3]
    fractions = (0.25, 0.5, 0.9)
    tokens, texts = model.vision.embed(images), model.text_features()
    outcomes = faithfulness.deletion_outcomes(Judge(model), model, tokens, labels, orders, texts, fractions)
    for curve, order in orders.items():
        for f, fraction in enumerate(fractions):
            for i, image in enumerate(images):
                gone = 1 + order[i : i + 1, : round(fraction * M)]
                with model.vision.hooked({"blocks.*.attn.pattern": without(gone)}):
                    right = model.logits(image[None]).argmax(-1) == labels[i]
                assert outcomes[curve][f, i] == right


@pytest.mark.parametrize("kind", ["prompts", "biases"])
def test_maps_are_relevancy_of_either_class_and_attention(tuned, images, kind):
    model, labels = tuned(METHODS[kind]), torch.arange(len(images)) % len(CLASSES)
    with torch.no_grad():
        texts, predicted = model.text_features(), model.logits(images).argmax(-1)
    assert (predicted != labels).any() and (predicted == labels).any()
    batches = list(zip(images.split(5), labels.split(5)))
    maps, found = faithfulness.maps_of_batches(model, batches, texts)
    assert torch.equal(found, predicted) and list(maps) == list(faithfulness.MAPS)
    for name, which in (("own class", labels), ("predicted class", predicted)):
        expected = relevancy(model, images, which).vision[:, :M]
        torch.testing.assert_close(maps[name], expected, rtol=1e-4, atol=1e-5)
    same = predicted == labels
    assert torch.equal(maps["own class"][same], maps["predicted class"][same])


def test_where_all_are_right_the_two_relevancies_are_one(tuned, images, monkeypatch):
    model, sizes, maps_of = tuned(), [], faithfulness.relevance_maps
    monkeypatch.setattr(
        faithfulness, "relevance_maps", lambda m, x, *rest: sizes.append(len(x)) or maps_of(m, x, *rest)
    )
    with torch.no_grad():
        texts, predicted = model.text_features(), model.logits(images).argmax(-1)
    maps, _ = faithfulness.maps_of_batches(model, [(images, predicted)], texts)
    assert torch.equal(maps["own class"], maps["predicted class"]) and sizes == [len(images)]


def test_area_under_straight_lines():
    assert faithfulness.deletion_area(np.ones(11, bool)) == pytest.approx(1)
    lines = np.stack([1 - np.array(FRACTIONS), np.array(FRACTIONS) / 2], 1)
    assert faithfulness.deletion_area(lines).tolist() == pytest.approx([0.5, 0.25])


@torch.no_grad()
def test_raw_attention_is_that_of_cls_in_the_last_block(tuned, sharp_clip, images):
    visual = sharp_clip.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(images), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x).transpose(0, 1)
    *first, last = visual.transformer.resblocks
    for block in first:
        x = block(x)
    h = last.ln_1(x)
    _, expected = last.attn(h, h, h, need_weights=True)  # averaged over heads
    model = tuned(ZeroshotConfig())
    found, _ = faithfulness.relevance_maps(
        model, images, torch.zeros(len(images), dtype=torch.long), model.text_features()
    )
    assert torch.allclose(found["attention"], expected[:, 0, 1:], atol=1e-5)


def test_random_orders_are_the_same_for_every_model_and_batch_size(tuned, images):
    model, labels = tuned(), torch.arange(len(images)) % len(CLASSES)
    batches = list(zip(images.split(4), labels.split(4)))
    measured = faithfulness.deletion_curves({"one": model, "the same": model}, batches)
    assert np.array_equal(measured["one"][RANDOM,], measured["the same"][RANDOM,])
    again = faithfulness.deletion_curves({"one": model}, [(images, labels)])
    assert all(np.array_equal(curve, again["one"][key]) for key, curve in measured["one"].items())
    whole = faithfulness.random_orders(images, M, torch.Generator().manual_seed(0))
    one_generator = torch.Generator().manual_seed(0)
    parts = [faithfulness.random_orders(part, M, one_generator) for part in images.split(4)]
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole.unique(dim=0)) > 1 and torch.equal(whole.sort(1).values, torch.arange(M).expand_as(whole))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("noise", [0, 0.05])
@torch.no_grad()
def test_what_bfloat16_leaves_in_doubt_float32_decides(tuned, images, monkeypatch, noise, native):
    """A draft that is far off is found out by its errors on close calls; without one everything is float32."""
    monkeypatch.setattr(deletion, "has_native_bf16", lambda device: native)
    torch.manual_seed(6)
    model, which = tuned(), torch.arange(60) % len(images)
    rows = deletion.kept_rows(torch.rand(len(which), M).argsort(1), 0.3)
    tokens = model.vision.embed(images)
    features = deletion.features_of_rows(model, tokens, rows, which)
    texts = features[:5]  # classes that are hard to tell apart
    labels, expected = torch.arange(len(images)) % 5, (features @ texts.T).argmax(-1)
    judge = Judge(model)
    assert (judge.draft is None) != native
    if native and noise:
        judge.draft.visual.proj += noise * torch.randn_like(judge.draft.visual.proj)
        drafted = deletion.features_of_rows(model, tokens.bfloat16(), rows, which, judge.draft)
        assert not torch.equal((drafted @ texts.T).argmax(-1) == labels[which], expected == labels[which])
    right = judge.right(model, tokens, labels, which, rows, texts)
    assert torch.equal(right, expected == labels[which]) and right.any() and not right.all()
    if native and noise:
        assert judge.tolerance > 2 * deletion.DOUBT * float(model.logit_scale)
