"""`promptbias compile`: what it starts from, what it minimises, and that a stock CLIP results."""

import copy
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from prompted_clips import CLASSES, deep_prompts, tuned_at_random

import promptbias
from promptbias.compile import Compilation, compiled_config, load_teacher, main, make_parser, start_from_means
from promptbias.engine import run_folder
from promptbias.engine.load import load_config, load_model, load_trainer
from promptbias.interp.branches import branches_of
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.utils.errors import UserError

EXTRA = ["--extra", "OPTIM.MAX_EPOCH", "8", "OPTIM.LR", "0.003"]


@pytest.fixture(scope="module")
def compiled(runs, tmp_path_factory):
    """The deep prompts compiled by the command line: the folder of the run, and the finished process."""
    folder = str(tmp_path_factory.mktemp("compiled") / "seed1")
    command = [sys.executable, "-m", "promptbias", "compile", runs["deep"], "--output-dir", folder]
    done = subprocess.run([*command, *EXTRA], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def compilation(run, folder, *flags):
    """The trainer of a compilation, before it trains."""
    args = make_parser().parse_args([run, "--output-dir", str(folder), *flags])
    cfg = compiled_config(args)
    return Compilation(cfg, load_teacher(args, cfg))


@torch.no_grad()
def test_a_stock_clip_results(compiled, images):
    model = promptbias.load(compiled[0])
    logits = model(images)
    tokens, stock = model.text.tokens, copy.deepcopy(model).fold()
    torch.testing.assert_close(stock(images, tokens)[0], logits, rtol=1e-5, atol=1e-4)
    assert any(p.any() for p in model.adapters.parameters())


@torch.no_grad()
def test_the_biases_come_nearer_to_the_prompts(compiled, runs, images):
    model, teacher = load_model(compiled[0]), load_model(runs["deep"])
    theirs = teacher.logits(images).log_softmax(-1)

    def distance() -> float:
        ours = model.logits(images).log_softmax(-1)
        return float((theirs.exp() * (theirs - ours)).sum(-1).mean())

    after = distance()
    with model.base():
        before = distance()
    assert after < 0.7 * before


def test_the_result_is_a_run_of_bias_tuning(compiled, runs):
    cfg, trainer = load_config(compiled[0])
    assert trainer.__name__ == "BiasTuning" and "k" not in cfg.TRAINER.BIASTUNING.SITES
    assert cfg.TRAINER.BIASTUNING.TEMPLATE == "a photo of a {}."
    loaded = load_trainer(compiled[0])
    right = [loaded.model(batch["img"]).argmax(-1) == batch["label"] for batch in loaded.test_loader]
    results = run_folder.read_results(compiled[0])
    assert 100 * torch.cat(right).float().mean() == pytest.approx(results["accuracy"])
    written = run_folder.read_config(compiled[0])
    assert dict(written.COMPILE, SHA256="") == {
        "RUN": runs["deep"],
        "SHA256": "",
        "START": "means",
        "MATCH": ["logits"],
    }


def test_a_finished_compilation_is_left_as_it_is(compiled, runs, capsys):
    before = os.path.getmtime(os.path.join(compiled[0], run_folder.RESULTS))
    main([runs["deep"], "--output-dir", compiled[0], *EXTRA])
    assert "is finished" in capsys.readouterr().out
    assert os.path.getmtime(os.path.join(compiled[0], run_folder.RESULTS)) == before


@torch.no_grad()
def test_the_loss_is_the_divergence_from_the_prompted_model_whatever_the_labels(runs, tmp_path, images, capsys):
    trainer = compilation(runs["deep"], tmp_path / "new", "--start", "zero")
    assert not any(p.any() for p in trainer.model.adapters.parameters())
    teacher = load_model(runs["deep"])
    before, after = (model.logits(images).softmax(-1) for model in (teacher, trainer.model.eval()))
    expected = (before * (before / after).log()).sum() / len(images)
    for labels in (torch.zeros(6, dtype=torch.long), torch.tensor([2, 1, 0, 2, 1, 0])):
        torch.testing.assert_close(trainer.loss(images, labels), expected, rtol=1e-3, atol=1e-6)
    trainer = compilation(runs["deep"], tmp_path / "new", "--start", "zero", "--match", "image", "text")
    pairs = [
        (teacher.image_features(images), trainer.model.image_features(images)),
        (teacher.text_features(), trainer.model.text_features()),
    ]
    expected = sum(1 - F.cosine_similarity(*pair).mean() for pair in pairs)
    torch.testing.assert_close(trainer.loss(images, None), expected, rtol=1e-3, atol=1e-6)


def started(clip_model, teacher, images, *sites):
    """Bias tuning around a copy of `clip_model`, started from the means of a prompted model."""
    student = TunedCLIP(copy.deepcopy(clip_model), CLASSES, BiasTuningConfig(sites=sites), precision="fp32").eval()
    labelled = [(images, torch.zeros(len(images)))]
    for branch, biases in zip(branches_of(teacher), (student.adapters.vision, student.adapters.text)):
        start_from_means(biases, branch, labelled)
    return student


@torch.no_grad()
def test_the_means_are_the_same_in_the_values_as_behind_them(sharp_clip, tuned, images):
    teacher = tuned()
    of_values, behind = (started(sharp_clip, teacher, images, site) for site in ("v", "attn.out"))
    torch.testing.assert_close(of_values(images), behind(images), rtol=1e-4, atol=1e-3)
    plain = TunedCLIP(copy.deepcopy(sharp_clip), CLASSES, BiasTuningConfig(), precision="fp32").eval()
    assert (behind(images) - plain(images)).abs().max() > 0.1
    after_block = started(sharp_clip, teacher, images, "block")
    torch.testing.assert_close(
        after_block.adapters.vision.bias[1], behind.adapters.vision.changes["attn_out_proj_bias@1"]
    )


@torch.no_grad()
def with_prompts_that_are_a_bias(clip_model):
    """`clip_model` changed so that the prompts' effect in the vision branch is one constant vector per block.

    Attention is uniform (no queries and keys), so that every row gives the prompts the same mass; and the values read
    one channel alone, which images leave at the mean of all channels, so that LayerNorm makes 0 of it.
    """
    visual, channel = clip_model.visual, 0
    width = visual.class_embedding.shape[0]

    def leave_out(weight):
        """(..., D), what is written into the stream: of mean 0, and 0 in the channel."""
        weight[..., channel] = 0
        weight[..., 1:] -= weight[..., 1:].mean(-1, keepdim=True)

    for written in (visual.class_embedding, visual.positional_embedding, visual.conv1.weight.flatten(1).T):
        leave_out(written)
    visual.ln_pre.weight.fill_(1), visual.ln_pre.bias.zero_()
    for block in visual.transformer.resblocks:
        for layer in (block.attn.out_proj, block.mlp.c_proj):
            leave_out(layer.weight.T), leave_out(layer.bias)
        block.ln_1.bias[channel] = 0
        block.attn.in_proj_weight[: 2 * width] = 0
        block.attn.in_proj_bias.zero_()
        block.attn.in_proj_weight[2 * width :, 1:] = 0
        block.attn.in_proj_weight[2 * width :, channel] *= 10
    return clip_model


@pytest.mark.parametrize("site", ["vision.attn.out", "vision.v"])
@torch.no_grad()
def test_prompts_that_are_a_bias_compile_exactly(sharp_clip, images, site):
    clip_model = with_prompts_that_are_a_bias(sharp_clip)
    teacher = tuned_at_random(clip_model, deep_prompts())
    features = [started(clip_model, teacher, images, site).image_features(images), teacher.image_features(images)]
    torch.testing.assert_close(*features, rtol=1e-4, atol=1e-5)
    assert (teacher.frozen_image_features(images) - features[1]).abs().max() > 0.05


def test_a_branch_without_a_place_for_the_means_stays_as_it_is(sharp_clip, tuned, images):
    student = started(sharp_clip, tuned(), images, "vision.block", "text.q")
    assert student.adapters.vision.bias.any() and not any(p.any() for p in student.adapters.text.parameters())


@pytest.mark.parametrize(
    "flags, said",
    [
        (["{bias}"], 'is a run of "bias", without prompts; give a run with prompts'),
        (["{nothing}"], "holds no run"),
        (["{unfinished}"], "is not finished .* the command that started it resumes it"),
        (["{deep}", "--sites", "vv"], '--sites names "vv", which is no site'),
        (["{deep}", "--sites", "q", "vision.ln.bias"], "can hold the means; add one of attn.out, v, block, or give"),
        (["{deep}", "--extra", "OPTIM.LRR", "1"], "there is no config key OPTIM.LRR"),
        (
            ["{deep}", *EXTRA, "--start", "zero", "--output-dir", "{compiled}"],
            r"holds a run with another config \(COMPILE.START",
        ),
        (["{deep}", "--output-dir", "{bias}"], "holds a run with another config"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_one_sentence(runs, compiled, tmp_path, flags, said, capsys):
    (tmp_path / "unfinished").mkdir()
    shutil.copy(os.path.join(runs["deep"], run_folder.CONFIG), tmp_path / "unfinished")
    names = {**runs, "compiled": compiled[0], "nothing": tmp_path / "x", "unfinished": tmp_path / "unfinished"}
    with pytest.raises(UserError, match=said) as caught:
        main(["--output-dir", str(tmp_path / "out"), *(flag.format(**names) for flag in flags)])
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / run_folder.CONFIG).exists()
