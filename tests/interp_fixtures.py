"""Fixtures for interpretation: small models of several methods, and finished runs of them."""

import copy
import os

import numpy as np
import pytest
import torch
from conftest import THREE_BLOCKS
from PIL import Image

CLASSES = ["cat", "permanent crop land", "highway or road"]
LABEL = torch.tensor([2, 0, 1, 2])
V, T, M, L, H = 3, 4, 16, 3, 2  # vision and text prompts, patches, blocks, heads


@pytest.fixture
def make(small_clip, config):
    """make("IVLP", *pairs): a model around a copy of `small_clip`, as if trained; its attention is far from uniform."""
    from promptbias.engine.discovery import register_all
    from promptbias.engine.registry import tuning_trainers

    register_all()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in small_clip.named_parameters():
            if "resblocks" in name and p.ndim == 2:
                p.copy_(1.5 * torch.randn_like(p) * p.shape[-1] ** -0.5)

    def model(trainer, *pairs):
        custom_clip = tuning_trainers()[trainer].custom_clip
        cfg = config(f"{custom_clip.config.node}.PREC", "fp32", *pairs)
        built = custom_clip(cfg, CLASSES, copy.deepcopy(small_clip)).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for p in built.adapters.parameters():
                p += 0.5 * torch.randn_like(p)
        return built.requires_grad_(False)

    return model


@pytest.fixture
def deep(make):
    return make("IVLP", "IVLP.N_CTX_VISION", V, "IVLP.N_CTX_TEXT", T)


@pytest.fixture
def models(make, deep):
    """Models by kind."""
    depths = "IVLP.PROMPT_DEPTH_VISION", 1, "IVLP.PROMPT_DEPTH_TEXT", 1
    return {
        "deep": deep,
        "shallow": make("IVLP", "IVLP.N_CTX_VISION", V, "IVLP.N_CTX_TEXT", T, *depths),
        "bias": make("BiasTuning"),
        "norm": make("LNTuning"),
        "plain": make("ZeroshotCLIP"),
    }


@pytest.fixture
def batch():
    """Images with the labels LABEL."""
    torch.manual_seed(2)
    return torch.randn(4, 3, 32, 32)


@pytest.fixture(scope="session")
def train_run(tmp_path_factory, weights_file):
    """train_run(name, trainer, *pairs): the folder of a finished run, on 2 training and 4 test images of 3 classes."""
    from promptbias.engine.discovery import register_all

    register_all()
    from dassl.config import get_cfg_default
    from dassl.engine import TRAINER_REGISTRY

    base = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 4)):
        for name in CLASSES:
            os.makedirs(base / "images" / part / name)
            for i in range(count):
                pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(base / "images" / part / name / f"{i}.png")

    def train(name, trainer, *pairs):
        cfg = get_cfg_default()
        cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS, cfg.SEED = "ImageFolder", str(base / "images"), 2, 1
        cfg.MODEL.BACKBONE.NAME, cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS = weights_file, (32, 32), ("normalize",)
        cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 0, 6
        cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH = "sgd", 0.5, 3
        cfg.TRAINER.NAME, cfg.OUTPUT_DIR, cfg.VERBOSE = trainer, str(base / name), False
        cfg.merge_from_list([*THREE_BLOCKS, *pairs])
        torch.manual_seed(0)
        TRAINER_REGISTRY.get(trainer)(cfg).train()
        return str(base / name)

    return train


@pytest.fixture(scope="session")
def runs(train_run):
    """Folders of finished runs by name."""
    depths = "TRAINER.IVLP.PROMPT_DEPTH_VISION", 1, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", 1
    return {
        "deep": train_run("deep", "IVLP", "TRAINER.IVLP.N_CTX_VISION", 3),
        "shallow": train_run("shallow", "IVLP", *depths),
        "bias": train_run("bias", "BiasTuning"),
    }


@pytest.fixture(scope="session")
def comparison(runs):
    from promptbias.analysis.comparison import Comparison

    return Comparison(runs["deep"], [runs["shallow"], runs["bias"]])
