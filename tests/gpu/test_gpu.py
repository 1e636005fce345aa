"""On a GPU, where there is one: training by the command line, and a tuned model's numbers beside those on the CPU."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="no nvidia-smi, so no GPU"),
]

COMPARE = """
import sys

import torch
from PIL import Image

import promptbias

def numbers(device):
    model = promptbias.load(sys.argv[1], device=device)
    pixels = torch.stack([model.preprocess(Image.open(path).convert("RGB")) for path in sys.argv[2:]]).to(device)
    with promptbias.capture(model.vision, "blocks.*.attn.pattern") as cache, torch.no_grad():
        logits = model.logits(pixels)
    patches = promptbias.relevancy(model, sys.argv[2], model.classnames[0]).patches
    return {"logits": logits.cpu(), "attention": cache["blocks.0.attn.pattern"].cpu(), "relevancy": patches.cpu()}

assert torch.cuda.is_available()
here, there = numbers("cpu"), numbers("cuda")
for name, values in here.items():
    error = ((values - there[name]).abs().max() / values.abs().max()).item()
    print(name, error)
    assert error < 1e-2, (name, error)
"""


def on_gpu(*argv):
    """A process that sees the GPU, which this one does not."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": os.environ["GPUS_FOR_TESTS"], "PYTHONPATH": path()}
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def path():
    return os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))


@pytest.mark.parametrize("method, cfg", [("BiasTuning", "tiny"), ("IVLP", "tiny_deep"), ("LoRA", "tiny")])
def test_what_is_trained_on_a_gpu_computes_the_same_on_the_cpu(tmp_path, method, cfg):
    output = tmp_path / "run"
    log = on_gpu(
        *("train.py", "--root", str(tmp_path / "data"), "--seed", "1", "--trainer", method),
        *("--dataset-config-file", "configs/datasets/digits.yaml"),
        *("--config-file", f"configs/trainers/{method}/{cfg}.yaml", "--output-dir", str(output)),
        *("OPTIM.MAX_EPOCH", "2", "DATASET.NUM_SHOTS", "4"),
    )
    assert re.search(r"Is CUDA available:? +True", log), log[:3000]
    assert json.loads((output / "results.json").read_text())["accuracy"] > 50  # zero-shot CLIP has 74
    images = sorted(str(image) for image in (tmp_path / "data" / "digits" / "images").glob("*/0*.png"))[:6]
    print(on_gpu("-c", COMPARE, str(output), *images))
