"""Lengths of trained biases, against the parameters and against CLIP's own vectors that a fold changes."""

import copy

import numpy as np
import pytest
import torch
from prompted_clips import L

from promptbias.interp.bias_norms import bias_norms
from promptbias.model.biases import SITES
from promptbias.trainers.bias_tuning import BiasTuningConfig

IN_BLOCK = {  # site -> the stock CLIP's vector that it is folded into, and which third of it
    "block": ("mlp.c_proj.bias", slice(None)),
    "mlp.hidden": ("mlp.c_fc.bias", slice(None)),
    "q": ("attn.in_proj_bias", 0),
    "k": ("attn.in_proj_bias", 1),
    "v": ("attn.in_proj_bias", 2),
    "attn.out": ("attn.out_proj.bias", slice(None)),
    "ln_1.weight": ("ln_1.weight", slice(None)),
    "ln_2.bias": ("ln_2.bias", slice(None)),
}
CALLED = {"mlp.hidden": "mlp.c_fc.bias", "attn.out": "attn.out_proj.bias"}


def test_every_site_is_as_long_as_what_a_fold_adds(tuned):
    model = tuned(BiasTuningConfig(sites=SITES))
    before = copy.deepcopy(model.clip)
    found = {
        "visual.": bias_norms(model.adapters.vision, model.vision),
        "": bias_norms(model.adapters.text, model.text),
    }
    after = model.fold()
    for prefix, norms in found.items():
        for site, (name, part) in IN_BLOCK.items():
            values = norms[CALLED.get(site, site)]
            assert values.shape == (L, 2)
            for i in range(L):
                name_of_block = f"{prefix}transformer.resblocks.{i}.{name}"
                old, new = (clip.get_parameter(name_of_block) for clip in (before, after))
                if isinstance(part, int):
                    old, new = old.chunk(3)[part], new.chunk(3)[part]
                length = float((new - old).norm())
                assert values[i, 0] == pytest.approx(length, rel=1e-4)
                assert values[i, 1] == pytest.approx(length / float(old.norm()), rel=1e-4)


def test_blocks_beyond_the_depth_have_none(tuned):
    model = tuned(BiasTuningConfig(depth_vision=2, depth_text=0))
    norms = bias_norms(model.adapters.vision, model.vision)
    assert list(norms) == ["block"] and np.isnan(norms["block"]).tolist() == [[False] * 2] * 2 + [[True] * 2]
    with torch.no_grad():
        assert norms["block"][1, 0] == pytest.approx(float(model.adapters.vision.bias[1].norm()))
    assert bias_norms(model.adapters.text, model.text) == {}
