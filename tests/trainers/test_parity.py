"""Our methods beside the public code of their papers: logits, gradients and trained parameters on equal small weights.

Nobody's code is in this repository. Each test runs where a checkout of the method's own repository is named:

    COOP=/path/to/CoOp MAPLE=/path/to/multimodal-prompt-learning CLIP_LORA=/path/to/CLIP-LoRA \
        PROLIP=/path/to/ProLIP CLIPFIT=/path/to/CLIPFit/CLIPFit \
        pytest -n 0 -s tests/trainers/test_parity.py

The numbers that it prints, the largest difference over the largest value, stand in docs/methods.md.
"""

import argparse
import copy
import importlib
import importlib.util
import os
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.clipfit import CLIPFitConfig
from promptbias.trainers.ivlp import IVLPConfig
from promptbias.trainers.lora import LoRAConfig
from promptbias.trainers.prolip import ProLIPConfig
from promptbias.trainers.text_context import TextContextConfig
from promptbias.trainers.vpt import VPTConfig

NAMES, WIDTH, BLOCKS = ["Forest", "Permanent Crop Land", "Sea or Lake"], 128, 3
TEMPLATE = "a centered satellite photo of {}."
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 2, 1, 0])


def checkout(variable):
    """The named checkout's path; without one the test is skipped."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no checkout")
    return os.environ[variable]


def load(path, name):
    """A file of a checkout as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agree(what, found, expected, tolerance=1e-4):
    """Compare, and print how much differs."""
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"\n{what}: {difference:.1e}")
    assert difference <= tolerance


def ours_around(clip_model, config):
    return TunedCLIP(copy.deepcopy(clip_model), NAMES, config, TEMPLATE, precision="fp32").eval()


@pytest.fixture
def without_cuda(monkeypatch):
    """Makes `.cuda()` do nothing."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_: self)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self, *_: self)


@pytest.mark.parametrize("ctx_init, n_ctx", [("a photo of a", 4), ("", 16)])
def test_text_context_and_coop(random_clip, config, ctx_init, n_ctx):
    from yacs.config import CfgNode

    path = checkout("COOP")
    module = sys.modules.get("coop_of_the_checkout") or load(f"{path}/trainers/coop.py", "coop_of_the_checkout")
    sys.modules["coop_of_the_checkout"] = module  # it enters itself into Dassl's registry, once
    cfg = config()
    options = {"N_CTX": n_ctx, "CTX_INIT": ctx_init, "CSC": False, "CLASS_TOKEN_POSITION": "end", "PREC": "fp32"}
    cfg.TRAINER.COOP = CfgNode(options)
    theirs = module.CustomCLIP(cfg, NAMES, copy.deepcopy(random_clip))
    ours = ours_around(random_clip, TextContextConfig(ctx_init=ctx_init, n_ctx=n_ctx))
    checkpoint = ours.method.convert_state(theirs.prompt_learner.state_dict())
    if ctx_init:
        assert torch.equal(ours.adapters.text.prompts, checkpoint["text.prompts"])
    ours.adapters.load_state_dict(checkpoint)
    logits = theirs(IMAGES)
    agree(f"CoOp M={n_ctx}, logits", ours(IMAGES), logits)
    F.cross_entropy(logits, LABELS).backward()
    ours.train()(IMAGES, LABELS).backward()
    agree(f"CoOp M={n_ctx}, gradients", ours.adapters.text.prompts.grad[0], theirs.prompt_learner.ctx.grad)


@pytest.fixture
def in_maple(monkeypatch):
    """in_maple(name): a trainer of MaPLe's checkout, and the CLIP in it, which other code does not get to see."""
    from dassl.engine import TRAINER_REGISTRY

    path = checkout("MAPLE")
    monkeypatch.setattr(TRAINER_REGISTRY, "register", lambda: lambda trainer: trainer)  # these names are taken
    for name in [name for name in sys.modules if name == "clip" or name.startswith("clip.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(path)
    # Theirs rounds prompts to float16 in passing.
    monkeypatch.setattr(torch.Tensor, "half", lambda self: self)
    return lambda name: (load(f"{path}/trainers/{name}.py", f"{name}_of_maple"), importlib.import_module("clip.model"))


@pytest.mark.parametrize("name, depth", [("independentVL", BLOCKS), ("independentVL", 1), ("vpt", BLOCKS), ("vpt", 1)])
def test_deep_prompts_and_maple(random_clip, config, in_maple, without_cuda, monkeypatch, name, depth):
    from yacs.config import CfgNode

    V, T, text_depth = 2, 3, 0 if name == "vpt" else depth
    method = IVLPConfig(V, T, "", depth, depth) if text_depth else VPTConfig(V, depth)
    ours = TunedCLIP(copy.deepcopy(random_clip), NAMES, method, "a photo of a {}.", precision="fp32").eval()
    module, clip = in_maple(name)
    monkeypatch.setattr(clip, "convert_weights", lambda model: None)
    depths = {"vision_depth": depth, "vision_ctx": V, "language_depth": text_depth, "language_ctx": T}
    stock = clip.build_model(random_clip.state_dict(), {"trainer": "IVLP" if text_depth else "VPT", **depths})
    cfg = config()
    cfg.TRAINER.VPT = CfgNode({"N_CTX_VISION": V})
    cfg.TRAINER.IVLP = CfgNode({"N_CTX_VISION": V, "N_CTX_TEXT": T, "CTX_INIT": "", "PROMPT_DEPTH_TEXT": depth})
    theirs = module.CustomCLIP(cfg, NAMES, stock)
    parameters = dict(theirs.named_parameters())
    prompts = {}
    for branch, first in ("vision", "image_encoder.VPT"), ("text", "prompt_learner.ctx"):
        encoder = "image_encoder" if branch == "vision" else "text_encoder"
        names = [first, *(f"{encoder}.transformer.resblocks.{i}.VPT_shallow" for i in range(1, BLOCKS))]
        prompts[branch] = [parameters[name] for name in names if name in parameters]
        with torch.no_grad():
            if prompts[branch]:
                assert len(prompts[branch]) == depth
                getattr(ours.adapters, branch).prompts.copy_(torch.stack(prompts[branch]))
    logits = theirs.eval()(IMAGES)
    what = f"MaPLe's {name}, depth {depth}"
    agree(f"{what}, logits", ours(IMAGES), logits)
    F.cross_entropy(logits, LABELS).backward()
    ours.train()(IMAGES, LABELS).backward()
    for branch in [branch for branch in prompts if prompts[branch]]:
        expected = torch.stack([parameter.grad for parameter in prompts[branch]])
        agree(f"{what}, gradients, {branch}", getattr(ours.adapters, branch).prompts.grad, expected)


@pytest.mark.parametrize("weights", [["q", "k", "v"], ["q", "k", "v", "o"]])
def test_lora_and_clip_lora(random_clip, monkeypatch, weights):
    from clip import clip

    monkeypatch.syspath_prepend(checkout("CLIP_LORA"))
    apply_lora = importlib.import_module("loralib.utils").apply_lora
    stock = copy.deepcopy(random_clip).requires_grad_(False)
    # Theirs takes another path where nothing is dropped; at this rate nothing is.
    named = {"encoder": "both", "position": "all", "backbone": "ViT-B/16", "params": weights}
    text = apply_lora(argparse.Namespace(r=2, alpha=1, dropout_rate=1e-12, **named), stock)
    layers = {"text": text[:BLOCKS], "vision": text[BLOCKS:]}
    ours = ours_around(random_clip, LoRAConfig(weights=tuple(weights), dropout=0.0))
    projections = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}

    def pairs():
        for branch in ("text", "vision"):
            for weight in weights:
                for i, layer in enumerate(layers[branch]):
                    theirs = getattr(layer, projections[weight])
                    adapter = getattr(ours.adapters, branch)
                    yield adapter.A[weight], i, theirs.w_lora_A
                    yield adapter.B[weight], i, theirs.w_lora_B

    with torch.no_grad():
        for mine, i, parameter in pairs():
            parameter += 0.1 * torch.randn_like(parameter)
            mine[i] = parameter

    def theirs():
        texts = stock.encode_text(clip.tokenize([TEMPLATE.format(name) for name in NAMES]))
        features = F.normalize(stock.encode_image(IMAGES), dim=-1)
        return stock.logit_scale.exp() * features @ F.normalize(texts, dim=-1).t()

    stock.train()
    F.cross_entropy(theirs(), LABELS).backward()
    ours.train()(IMAGES, LABELS).backward()
    found, expected = zip(*((mine.grad[i], parameter.grad) for mine, i, parameter in pairs()))
    name = f"CLIP-LoRA {''.join(weights)}"
    agree(f"{name}, gradients", torch.cat([g.flatten() for g in found]), torch.cat([g.flatten() for g in expected]))
    stock.eval()
    logits = theirs()
    agree(f"{name}, logits", ours.eval()(IMAGES), logits)
    agree(f"{name}, logits of the folded CLIP", ours.fold()(IMAGES, ours.text.tokens)[0], logits)


def test_prolip_and_the_papers_own(random_clip, without_cuda):
    """Ten steps of its training on all images at once, with its own optimizer and schedule."""
    package = types.ModuleType("methods_of_prolip")  # its own __init__ imports more than is needed
    package.__path__ = [os.path.join(checkout("PROLIP"), "methods")]
    sys.modules["methods_of_prolip"] = package
    method = importlib.import_module("methods_of_prolip.ProLIP").ProLIP
    stock, steps, rate, penalty = copy.deepcopy(random_clip), 10, 1e-2, 1 / 16
    stock.logit_scale.data.fill_(torch.tensor(100.0).log())
    ours = ours_around(stock, ProLIPConfig())
    with torch.no_grad():
        texts = ours.text_features()
    start = stock.visual.proj.detach().clone()
    stock.visual.proj = None  # which makes the encoder return what comes before the projection
    with torch.no_grad():
        before = stock.encode_image(IMAGES)
    settings = {"backbone": "ViT-B/16", "train_epoch": steps, "aug_views": 1}
    trainer = method(settings)
    arguments = {"visual.proj": start}, texts.t(), [before], LABELS
    projection = trainer.search_init_hp(torch.nn.MSELoss(reduction="sum"), settings, rate, penalty, None, *arguments)
    optimizer = torch.optim.Adam(ours.adapters.parameters(), lr=rate, eps=1e-4, weight_decay=2 * penalty)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        ours.train()(IMAGES, LABELS).backward()
        optimizer.step()
        schedule.step()
    change = projection.vit_proj.detach() - start
    agree(f"ProLIP, change of the projection after {steps} steps", ours.adapters.vision.change.detach(), change, 1e-2)
    logits = 100 * F.normalize(before @ projection.vit_proj, dim=-1) @ texts.t()
    agree("ProLIP, logits of the trained model", ours.eval()(IMAGES), logits, 1e-3)


def test_clipfit_and_the_papers_own(random_clip, config, without_cuda, monkeypatch):
    path = checkout("CLIPFIT")
    module = load(f"{path}/trainers/ClipFit.py", "clipfit_of_the_checkout")
    monkeypatch.setattr(module, "load_clip_to_cpu", lambda cfg: copy.deepcopy(random_clip))
    cfg = config()
    cfg.DATASET.NAME = "EuroSAT"
    theirs = module.CustomCLIP(cfg, NAMES, copy.deepcopy(random_clip))
    ours = ours_around(random_clip, CLIPFitConfig())
    places = {}
    for name, parameter in theirs.prompt_learner.named_parameters():
        block, norm = name.split("resblocks.")[-1].split(".")[0], ".".join(name.split(".")[-2:]).replace(".", "_")
        if name.startswith("text_encoder") and "c_proj.bias" in name:
            places[name] = ours.adapters.text.bias, int(block), parameter
        elif name.startswith("image_encoder") and "ln" in name:
            key = f"{norm}@{int(block) if 'resblocks' in name else -1}"
            places[name] = ours.adapters.vision.changes[key], slice(None), parameter
        else:
            parameter.requires_grad_(False)
    assert sum(parameter.numel() for _, _, parameter in places.values()) == ours.adapters.trainable_parameters
    with torch.no_grad():
        for mine, place, parameter in places.values():
            mine[place] = 0.1 * torch.randn_like(parameter)
            parameter += mine[place]
    logits = theirs(IMAGES)
    agree("CLIPFit, logits", ours(IMAGES), logits)
    loss = F.cross_entropy(logits, LABELS) + 8.0 * theirs.prompt_learner.forward_similarity()
    loss.backward()
    mine = ours.train()(IMAGES, LABELS)
    mine.backward()
    agree("CLIPFit, loss with the consistency term", mine.detach(), loss.detach())
    found, expected = zip(
        *((own.grad[place].flatten(), parameter.grad.flatten()) for own, place, parameter in places.values())
    )
    agree("CLIPFit, gradients", torch.cat(found), torch.cat(expected))
