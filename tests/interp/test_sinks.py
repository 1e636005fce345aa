"""Attention received, lengths of values and the rank of the prompts' update, against plain loops."""

import numpy as np
import pytest
import torch
from prompted_clips import CLASSES, L, M, T, V, batch_of, deep_prompts, vision_prompts

from promptbias.interp.branches import branches_of
from promptbias.interp.cache import capture
from promptbias.interp.sinks import LENGTH, MOST, RECEIVED, UpdateRank, sinks
from promptbias.trainers.ivlp import IVLPConfig

ONE_PROMPT = IVLPConfig(n_ctx_vision=1, n_ctx_text=1, prompt_depth_vision=L, prompt_depth_text=L)


def captured(branch, batch):
    with capture(branch.tower, "blocks.*.attn.pattern", "blocks.*.attn.v") as cache:
        branch.forward(batch, branch.adapter)
    return cache.by_block("attn.pattern"), cache.by_block("attn.v")


def test_what_tokens_of_an_image_receive_and_give(tuned, images):
    model = tuned()
    vision = branches_of(model)[0]
    found = sinks(model, vision, images.split(4))
    assert list(found[RECEIVED]) == list(found[LENGTH]) == ["cls", "patches", "prompts", MOST]
    patterns, values = captured(vision, images)
    inputs, prompts = slice(0, 1 + M), slice(1 + M, 1 + M + V)
    for i in range(L):
        received = patterns[i].mean(1)[:, inputs].mean(1)  # (B, N)
        total = found[RECEIVED]["cls"][i] + M * found[RECEIVED]["patches"][i] + V * found[RECEIVED]["prompts"][i]
        assert total == pytest.approx(1, abs=1e-5)
        assert found[RECEIVED]["prompts"][i] == pytest.approx(float(received[:, prompts].mean()), abs=1e-6)
        most, at = received[:, 1 : 1 + M].max(1)
        assert found[RECEIVED][MOST][i] == pytest.approx(float(most.mean()), abs=1e-6)
        length = torch.stack([head.norm(dim=-1) for head in values[i].chunk(vision.tower.heads, -1)]).mean(0)
        assert found[LENGTH]["prompts"][i] == pytest.approx(float(length[:, prompts].mean()), abs=1e-5)
        of_most = torch.stack([row[1 + k] for row, k in zip(length, at)])
        assert found[LENGTH][MOST][i] == pytest.approx(float(of_most.mean()), abs=1e-5)


def test_what_tokens_of_a_text_receive(tuned, images):
    """Class by class and token by token: the mean over the later tokens of the text that are not prompts."""
    model = tuned()
    text = branches_of(model)[1]
    classes = torch.arange(len(CLASSES))
    found = sinks(model, text, [classes[:1], classes[1:]])
    assert list(found[RECEIVED]) == ["SOS", "prompts", "class", "end", "EOS"]  # prompts replace the template's words
    patterns, _ = captured(text, classes)
    for i in range(L):
        received = {kind: [] for kind in found[RECEIVED]}
        for k in range(len(CLASSES)):
            eos = int(model.text.tokens[k].argmax())
            A = patterns[i][k].mean(0)
            queries = [q for q in range(1, eos + 1) if not 1 <= q < 1 + T]
            of_token = [float(np.mean([float(A[q, key]) for q in queries if q >= key])) for key in range(eos + 1)]
            for kind, tokens in {
                "SOS": of_token[:1],
                "prompts": of_token[1 : 1 + T],
                "class": of_token[1 + T : eos - 1],
                "end": of_token[eos - 1 : eos],
                "EOS": of_token[eos:],
            }.items():
                received[kind].append(np.mean(tokens))
        for kind, values in received.items():
            assert found[RECEIVED][kind][i] == pytest.approx(np.mean(values), abs=1e-5)


@pytest.mark.parametrize("method", [deep_prompts(), deep_prompts(1, 1)], ids=str)
def test_the_rank_is_the_entropy_of_the_spectrum(tuned, images, method):
    for branch in branches_of(tuned(method)):
        batch, kept = batch_of(branch, images), []
        branch.features(batch, lambda i, parts, kept=kept: kept.append(parts.u))
        found = UpdateRank(branch).stream(batch.split(2)).effective_rank()
        rows = branch.row_masks(batch)[0].bool()
        for i, u in enumerate(kept):
            for h in range(branch.tower.heads):
                singular = torch.linalg.svdvals(u[:, h][rows].double())
                share = (singular.square() / singular.square().sum()).clamp(min=1e-30)
                assert found[i, h] == pytest.approx(float((-share * share.log()).sum().exp()), rel=1e-5)
        assert found[0].max() <= branch.adapter.prompt_count and found[0].max() > 1.01


def test_one_prompt_in_a_block_adds_one_direction_in_each_head(tuned, images):
    for branch in branches_of(tuned(ONE_PROMPT)):
        found = UpdateRank(branch).stream([batch_of(branch, images)]).effective_rank()
        np.testing.assert_allclose(found, 1, atol=1e-9)


def test_without_prompts_there_is_no_rank(tuned, images):
    text = branches_of(tuned(vision_prompts()))[1]
    assert np.isnan(UpdateRank(text).stream([batch_of(text, images)]).effective_rank()).all()
