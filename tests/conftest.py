"""What the tests share: a small random CLIP, a miniature Digits folder, and the command line in a subprocess."""

import copy
import os
import re
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; before torch is imported, and for subprocesses
# Tests compare numbers on the CPU, so that they mean the same everywhere; tests/gpu looks for a GPU itself.
os.environ.setdefault("GPUS_FOR_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from forked import forked

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from promptbias.dassl_host import provide_dassl  # ROOT must be on the path

provide_dassl()

# KEY VALUE words for a CLIP of three blocks.
THREE_BLOCKS = [
    word
    for key in (
        "BIASTUNING.DEPTH_VISION",
        "BIASTUNING.DEPTH_TEXT",
        "IVLP.PROMPT_DEPTH_VISION",
        "IVLP.PROMPT_DEPTH_TEXT",
    )
    for word in (f"TRAINER.{key}", "3")
]


pytest_plugins = ["interp_fixtures", "attack_tally"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files with slow tests come first, in random order, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def random_clip():
    """A CLIP of three blocks of two heads, 32x32 pixels in 4x4 patches, in float32. Read only: take `small_clip`."""
    from promptbias.model.loading import import_clip

    _, model = import_clip()
    torch.manual_seed(0)
    clip_model = model.CLIP(32, 32, 3, 128, 8, 77, 49408, 128, 2, 3).float().eval()
    with torch.no_grad():
        for parameter in clip_model.parameters():  # biases and gains of a fresh CLIP are 0 and 1, which hides mistakes
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return clip_model


@pytest.fixture
def small_clip(random_clip):
    """A copy of `random_clip` of one's own."""
    return copy.deepcopy(random_clip)


@pytest.fixture
def config():
    """config("BIASTUNING.DEPTH_TEXT", 2, ...): a config for `small_clip`, in float32, with keys under TRAINER set."""
    from promptbias.engine.discovery import register_all

    register_all()
    from dassl.config import get_cfg_default

    def make(*pairs):
        cfg = get_cfg_default()
        cfg.INPUT.SIZE = (32, 32)
        for node in ("IVLP", "BIASTUNING", "ZEROSHOTCLIP"):
            cfg.TRAINER[node].PREC = "fp32"
        cfg.merge_from_list([*THREE_BLOCKS, *(f"TRAINER.{key}" if i % 2 == 0 else key for i, key in enumerate(pairs))])
        return cfg

    return make


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A data folder; Digits writes itself into it at first use."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def weights_file(random_clip, tmp_path_factory):
    """`random_clip` as a weights file for --backbone, with the scalars by which OpenAI's format is known."""
    path = str(tmp_path_factory.mktemp("weights") / "small.pt")
    scalars = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    weights = copy.deepcopy(random_clip).half().state_dict()
    torch.save({**weights, **{key: torch.tensor(value) for key, value in scalars.items()}}, path)
    return path


@pytest.fixture(scope="session")
def train_py(data_root, weights_file, tmp_path_factory):
    """train_py(*flags, *pairs): run `python train.py` on Digits with the small CLIP; returns the finished process.

    It is forked (see forked.py); `train_py.command(*flags, *pairs)` is the command for a process from the beginning.
    """

    def command(*words):
        flags = [
            "--root",
            data_root,
            "--seed",
            "1",
            "--trainer",
            "BiasTuning",
            "--backbone",
            weights_file,
            "--dataset-config-file",
            "configs/datasets/digits.yaml",
            "--config-file",
            "configs/trainers/BiasTuning/tiny.yaml",
        ]
        options = [
            "INPUT.SIZE",
            "(32, 32)",
            "DATASET.NUM_SHOTS",
            "2",
            "DATALOADER.TRAIN_X.BATCH_SIZE",
            "8",
            *THREE_BLOCKS,
            "OPTIM.MAX_EPOCH",
            "2",
        ]
        pairs = next((i for i, word in enumerate(words) if re.fullmatch(r"[A-Z_]+[.][A-Z_.]+", word)), len(words))
        return [sys.executable, "train.py", *flags, *words[:pairs], *options, *words[pairs:]]

    folder = tmp_path_factory.mktemp("output")

    def run(*words):
        return forked(command(*words)[1:], ROOT, folder)

    run.command = command
    return run


@pytest.fixture(scope="session")
def run(train_py, tmp_path_factory):
    """A finished run of BiasTuning: its folder, and the finished process."""
    folder = tmp_path_factory.mktemp("run") / "seed1"
    done = train_py("--output-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def sharp_clip(small_clip):
    """A stock CLIP whose attention is far from uniform."""
    from prompted_clips import sharpened

    return sharpened(small_clip)


@pytest.fixture
def tuned(sharp_clip):
    """tuned(method): a method, by default deep prompts, with random parameters around a copy of `sharp_clip`."""
    from prompted_clips import deep_prompts, tuned_at_random

    return lambda method=None: tuned_at_random(sharp_clip, method or deep_prompts())


@pytest.fixture
def images():
    """Six random images for `sharp_clip`."""
    torch.manual_seed(2)
    return torch.randn(6, 3, 32, 32)
