"""A method is one file and one YAML: the one that CONTRIBUTING.md shows, put into a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys

import miniatures
import pytest
from conftest import ROOT

FOLDERS = ("promptbias", "trainers", "analysis", "datasets", "tiny_clip", "configs", "compat", "scripts")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the new method's two files, and nothing else changed."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in FOLDERS:
        shutil.copytree(os.path.join(ROOT, name), copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(os.path.join(ROOT, "train.py"), copy)
    with open(os.path.join(ROOT, "CONTRIBUTING.md"), encoding="utf-8") as file:
        text = file.read()
    code, yaml = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL).group(1) for kind in ("python", "yaml"))
    (copy / "trainers" / "value_bias.py").write_text(code)
    (copy / "configs" / "trainers" / "ValueBiasTuning").mkdir()
    (copy / "configs" / "trainers" / "ValueBiasTuning" / "tiny.yaml").write_text(yaml)
    miniatures.digits(copy / "data")
    return copy


def run(checkout, *argv):
    environment = {**os.environ, "SEEDS": "1", "PYTHON": sys.executable, "PYTHONPATH": str(checkout)}
    done = subprocess.run(argv, cwd=checkout, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


USE = """
import sys, torch, promptbias
from promptbias import cli
from promptbias.analysis import figures

figures.DPI = 20
folder = sys.argv[1]
cli.main(["analysis", "report", "--model-dir", folder, "--samples", "4"])
cli.main(["methods"])
model = promptbias.load(folder)
image = torch.randn(2, 3, 64, 64)
tuned = model.logits(image)
assert model.adapters.vision.bias.abs().max() > 0
with model.base():
    assert (model.logits(image) - tuned).abs().max() > 1e-4  # the base CLIP is not the tuned one
model.fold()
torch.testing.assert_close(model.logits(image), tuned, rtol=1e-4, atol=1e-4)
print("label:", model.label)
"""


@pytest.mark.slow
def test_a_new_method_is_trained_shown_and_loaded(checkout):
    out = run(checkout, "bash", "scripts/run.sh", "ValueBiasTuning", "main", "digits", "1", "OPTIM.MAX_EPOCH", "2")
    assert "zero-shot" in out and "mean" in out
    out = run(checkout, sys.executable, "-c", USE, "output/digits/ValueBiasTuning/tiny_1shots/seed1")
    assert "ValueBiasTuning" in out and out.endswith("label: ValueBias\n")
    assert "ValueBias" in (checkout / "report" / "index.html").read_text()
    assert "ValueBias" in (checkout / "report" / "entropy.csv").read_text()
