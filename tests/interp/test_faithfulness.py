"""Deletion of patches, orders of deletion, and the areas under deletion curves."""

import numpy as np
import pytest
import torch
from prompted_clips import CLASSES, M, deep_prompts, vision_prompts

from promptbias.interp import faithfulness
from promptbias.interp.branches import BASE, VisionBranch
from promptbias.interp.faithfulness import FRACTIONS, LEAST, MOST, RANDOM, DropPatches
from promptbias.model.adapter import Adapter
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.ln_tuning import LNTuningConfig


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
    hits = [faithfulness.deletion_hits(model, images, labels, order, texts) for order in orders.values()]
    intact = (model.logits(images).argmax(-1) == labels).sum()
    assert all(h[0] == intact and h[-1] == hits[0][-1] for h in hits)
    assert len(hits[0]) == len(FRACTIONS)


def test_area_under_straight_lines():
    assert faithfulness.deletion_area([1.0] * 11) == pytest.approx(1)
    assert faithfulness.deletion_area([1 - f for f in FRACTIONS]) == pytest.approx(0.5)


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
    found = faithfulness.last_cls_attention(VisionBranch(tuned()), images, BASE)
    assert torch.allclose(found, expected[:, 0, 1:], atol=1e-5)


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
