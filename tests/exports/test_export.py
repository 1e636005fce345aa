"""What an export leaves, and what it refuses."""

import json
import os
import re
import sys

import pytest
import torch
from PIL import Image
from versions import needs_export, needs_packages

import promptbias
from promptbias import cli
from promptbias.exports.card import licence
from promptbias.exports.to_torch import ToTorch
from promptbias.trainers.bias_tuning import BiasTuningConfig

PICTURES = [Image.effect_noise((40, 50), 80) for _ in range(3)]


def refused(said, *args, **options):
    with pytest.raises(promptbias.UserError) as error:
        promptbias.export(*args, **options)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_the_command_exports_a_finished_run(run, tmp_path, capsys):
    folder, out = run[0], tmp_path / "deep" / "exported"
    assert cli.main(["export", str(folder), "--to", "clip", "--out", str(out)]) is None
    printed = capsys.readouterr().out
    assert "same class for 32 of 32 images" in printed and "clip.load rounds weights to float16" in printed
    assert sorted(os.listdir(out)) == ["README.md", "export.json", "model.pt"]
    assert os.listdir(tmp_path / "deep") == ["exported"]
    results = json.loads((folder / "results.json").read_text())
    card = (out / "README.md").read_text()
    rows = dict(re.findall(r"^\| (\w.*?) \| (.*) \|$", card, re.MULTILINE))
    assert rows["method"] == "BiasTuning: bias" and rows["dataset"] == "Digits" and rows["seed"] == "1"
    assert rows["shots"] == "2" and rows["template"] == '"a photo of the digit {}."'
    assert rows["accuracy"] == f"{results['accuracy']:.1f} % on the test set"
    assert rows["licence of the weights"] == "see the source of the backbone"
    assert 'clip.load("model.pt", device="cpu")' in card
    facts = json.loads((out / "export.json").read_text())
    assert facts["classnames"] == results["classnames"] and facts["texts"][3] == "a photo of the digit three."
    assert facts["image"]["size"] == 32
    refused("exported exists already; choose another --out", folder, "torch", out)


@pytest.mark.slow
def test_the_card_of_a_run_on_other_images(run, tmp_path):
    """The data need not be there."""
    picture = tmp_path / "noise.png"
    PICTURES[0].save(picture)
    check = promptbias.export(run[0], "clip", tmp_path / "out", images=[picture])
    card = (tmp_path / "out" / "README.md").read_text()
    assert check.pixels.images == 1 and "of 1 images" in card and check._repr_markdown_() == card


@pytest.mark.parametrize(
    "to, options, said",
    [
        ("onxx", {}, 'there is no target "onxx": did you mean "onnx"?'),
        ("hf", {"two_towers": True}, "--two-towers goes with --to onnx only, not with hf"),
        ("torch", {"images": []}, "a model without its run comes without images"),
    ],
)
def test_what_cannot_be_meant(tuned, tmp_path, to, options, said):
    refused(said, tuned(BiasTuningConfig()), to, tmp_path / "out", **{"images": PICTURES, **options})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "to, options", [("clip", {}), ("hf", {}), ("peft", {}), ("open_clip", {}), ("onnx", {"two_towers": True})]
)
def test_a_method_that_does_not_fold_is_told_where_it_can_go(tuned, tmp_path, to, options):
    said = "deep prompts 3+4 does not fold into a stock CLIP"
    refused(said, tuned(), to, tmp_path / "out", images=PICTURES, **options)
    refused("take --to onnx or --to torch", tuned(), to, tmp_path / "out", images=PICTURES, **options)
    assert not os.listdir(tmp_path)


@needs_packages("transformers")
def test_a_missing_package_is_named_with_the_extra(tuned, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    said = '--to peft needs peft, which is not installed; run `pip install "promptbias[export]"`'
    refused(said, tuned(BiasTuningConfig()), "peft", tmp_path / "out", images=PICTURES)


def test_an_unfinished_run(run, tmp_path):
    (tmp_path / "config.yaml").write_bytes((run[0] / "config.yaml").read_bytes())
    refused("is not finished (results.json is missing)", tmp_path, "torch", tmp_path / "out")


def test_another_precision(tuned, tmp_path):
    model = tuned(BiasTuningConfig())
    model.precision = "bf16"
    refused('load it with precision="fp32"', model, "torch", tmp_path / "out", images=PICTURES)


@needs_export
def test_of_what_is_not_the_tuned_model_nothing_remains(tuned, tmp_path, monkeypatch):
    """One bias that is off by little, between writing and loading."""
    write = ToTorch.write

    def write_another(self, source, folder):
        write(self, source, folder)
        bias = source.model.adapters.vision.bias
        bias[1, 5] += 1e-2 * float(bias.abs().max())

    monkeypatch.setattr(ToTorch, "write", write_another)
    said = "what torch.export loads is not the tuned model (largest difference of logits"
    refused(said, tuned(BiasTuningConfig()), "torch", tmp_path / "out", images=PICTURES)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "backbone, said", [("tiny", "MIT"), ("ViT-B/16", "model-card.md"), ("some/weights.pt", "see the source")]
)
def test_what_is_known_of_the_licence(backbone, said):
    assert said in licence(backbone)


def test_the_model_itself_is_left_alone(tuned, tmp_path):
    model = tuned(BiasTuningConfig())
    before = [p.clone() for p in model.parameters()]
    promptbias.export(model, "clip", tmp_path / "out", images=PICTURES)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
