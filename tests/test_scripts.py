"""The scripts, as a user starts them, on a miniature EuroSAT in CoOp's layout on disk."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT

CLASSES = ["AnnualCrop", "Forest", "SeaLake"]


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory):
    """$DATA with eurosat/2750/<Class>/*.jpg, and no split file."""
    data = tmp_path_factory.mktemp("data")
    random = np.random.RandomState(0)
    for name in CLASSES:
        folder = data / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for i in range(10):
            Image.fromarray(random.randint(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{name}_{i + 1}.jpg")
    return data


@pytest.fixture
def bash(tmp_path, eurosat):
    """bash(script, *words): run it with DATA, OUTPUT and one seed; returns the finished process."""

    def run(script, *words, **variables):
        environment = {**os.environ, "DATA": str(eurosat), "OUTPUT": str(tmp_path / "output"), "SEEDS": "1",
                       "PYTHON": sys.executable, "HOME": str(tmp_path), **variables}
        return subprocess.run(["bash", os.path.join(ROOT, script), *words], cwd=tmp_path, capture_output=True, text=True,
                              env=environment)

    return run


def options(weights):
    """The real configuration on a CLIP of three blocks."""
    return ["MODEL.BACKBONE.NAME", weights, "INPUT.SIZE", "(32, 32)", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0",
            "TRAINER.BIASTUNING.DEPTH_VISION", "3", "TRAINER.BIASTUNING.DEPTH_TEXT", "3",
            "TRAINER.IVLP.PROMPT_DEPTH_VISION", "3", "TRAINER.IVLP.PROMPT_DEPTH_TEXT", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("script, runs", [
    ("scripts/bias/main.sh", "BiasTuning/vit_b16_1shots"),
    ("scripts/ivlp/main.sh", "IVLP/vit_b16_prompt_1shots"),
])
def test_few_shot_on_eurosat(bash, eurosat, weights_file, tmp_path, script, runs):
    done = bash(script, "eurosat", "1", *options(weights_file))
    assert done.returncode == 0, done.stderr
    assert "zero-shot" in done.stdout and "mean" in done.stdout
    folder = tmp_path / "output" / "eurosat"
    results = json.loads((folder / runs / "seed1" / "results.json").read_text())
    assert results["counts"]["train"] == 3 and set(results["per_class"]) == {"Annual Crop Land", "Forest", "Sea or Lake"}
    zero_shot = json.loads((folder / "ZeroshotCLIP" / "vit_b16" / "results.json").read_text())
    assert zero_shot["template"] == "a centered satellite photo of {}."
    assert (eurosat / "eurosat" / "split_zhou_EuroSAT.json").exists()


@pytest.mark.slow
def test_a_failing_seed_fails_the_script(bash, weights_file):
    done = bash("scripts/bias/main.sh", "eurosat", "1", *options(weights_file), "OPTIM.LR", "1e30", "OPTIM.MAX_EPOCH", "4")
    assert done.returncode != 0 and "the loss is" in done.stderr and "mean" not in done.stdout


def test_missing_weights_stop_with_one_message(bash, tmp_path):
    done = bash("scripts/bias/main.sh", "eurosat", "1", http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ") and "openaipublic" in message and "digits" in message
    assert os.path.join(str(tmp_path), ".cache", "clip", "ViT-B-16.pt") in message


def test_missing_images_stop_with_one_message(bash, tmp_path):
    done = bash("scripts/bias/main.sh", "eurosat", "1", DATA=str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1 and str(tmp_path / "nothing" / "eurosat" / "2750") in done.stderr
    assert "http" in done.stderr and "digits" in done.stderr


@pytest.mark.parametrize("script, words", [("scripts/bias/main.sh", ["digits"]), ("scripts/zsclip/main.sh", [])])
def test_without_its_words_a_script_says_how_it_is_used(bash, script, words):
    done = bash(script, *words)
    assert done.returncode == 1 and "usage: bash" in done.stderr
