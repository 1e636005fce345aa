"""The models and images of a comparison: loading, labels, plain CLIP, and runs that it refuses."""

import os
import shutil

import numpy as np
import pytest
import torch
from interp_fixtures import CLASSES

from promptbias.analysis import shared
from promptbias.analysis.comparison import ZERO_SHOT, Comparison, evenly_spaced, first_difference
from promptbias.engine.load import load_trainer
from promptbias.model.loading import load_clip
from promptbias.utils import seals
from promptbias.utils.errors import UserError


def test_a_run_is_loaded_as_it_was_trained(runs):
    for name, node in (("deep", "IVLP"), ("bias", "BIASTUNING")):
        trainer = load_trainer(runs[name])
        assert trainer.cfg.TRAINER[node].PREC == "fp32" and not any(p.requires_grad for p in trainer.model.parameters())
        folder = os.path.join(runs[name], trainer.model_name)
        with open(os.path.join(folder, "checkpoint")) as file:
            saved = torch.load(os.path.join(folder, file.readline().strip()), weights_only=True)
        for key, value in trainer.model.adapters.state_dict().items():
            assert torch.equal(value, saved["state_dict"][key])


def test_a_comparison_holds_the_models_and_the_images(comparison, runs):
    assert list(comparison.models) == [ZERO_SHOT, "deep prompts 3+4", "shallow prompts 4+4", "bias"]
    assert comparison.label == "deep prompts 3+4" and comparison.models[comparison.label] is comparison.tuned
    assert comparison.plain.template == "a photo of a {}." and comparison.classnames == sorted(CLASSES)
    images, labels = zip(*comparison.batches())
    assert torch.cat(labels).tolist() == [0] * 4 + [1] * 4 + [2] * 4 and len(comparison) == 12
    assert torch.equal(torch.cat(list(comparison.images())), torch.cat(images))
    image, label = comparison.image(5)
    assert torch.equal(image[0], torch.cat(images)[5]) and label == 1
    picture = comparison.picture(image)
    assert picture.shape == (32, 32, 3) and picture.min() >= 0 and picture.max() <= 1
    assert sum(len(label) for _, label in comparison.batches(split="train")) == 6
    assert Comparison(runs["bias"], template="dataset").plain.template == Comparison(runs["bias"]).tuned.template


@pytest.mark.parametrize("name", ["deep", "bias", "norm", "vpt"])
def test_plain_clip_is_the_stock_clip_and_not_the_tuned_run(runs, train_run, weights_file, name):
    """Also of a method that changes CLIP's own LayerNorms, after one training step."""
    more = {
        "norm": lambda: train_run("norm", "LNTuning", "OPTIM.MAX_EPOCH", 1, "OPTIM.WARMUP_EPOCH", 0),
        "vpt": lambda: train_run("vpt", "VPT", "OPTIM.MAX_EPOCH", 1),
    }
    comparison = Comparison(more[name]() if name in more else runs[name])
    stock = load_clip(weights_file).requires_grad_(False)
    for image, _ in comparison.batches():
        features = torch.nn.functional.normalize(stock.encode_image(image), dim=-1)
        plain, tuned = (m.image_features(image) for m in (comparison.plain, comparison.tuned))
        torch.testing.assert_close(plain, features, rtol=1e-4, atol=1e-5)
        assert (tuned - plain).abs().max() > 1e-4
    texts = torch.nn.functional.normalize(stock.encode_text(comparison.plain.text.tokens), dim=-1)
    torch.testing.assert_close(comparison.plain.text_features(), texts, rtol=1e-4, atol=1e-5)
    if name == "norm":
        assert comparison.label == "LNTuning"
        plain = comparison.plain_clip("dataset")
        assert plain.template == comparison.tuned.template
        assert (comparison.tuned.text_features() - plain.text_features()).abs().max() > 0
    if name == "vpt":
        assert comparison.label == "deep prompts 4+0"


def test_samples_are_evenly_spaced_over_the_test_set():
    assert evenly_spaced(range(12), 4) == [0, 3, 6, 9]
    assert evenly_spaced(range(12), None) == evenly_spaced(range(12), 12) == list(range(12))


def test_runs_with_the_same_label_are_told_apart_by_their_folders(runs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs["deep"], tmp_path / name / "seed1")
    labels = list(Comparison(str(tmp_path / "a" / "seed1"), [runs["bias"], str(tmp_path / "b" / "seed1")]).models)
    assert labels == [ZERO_SHOT, "deep prompts 3+4 (a)", "bias", "deep prompts 3+4 (b)"]


def test_templates_that_differ_are_named(runs):
    note = Comparison(runs["bias"], template="an image of {}, a kind of place.").template_note()
    assert "zero-shot CLIP “an image of {}, a kind of place.”" in note and "bias “a photo of a {}.”" in note
    assert "`--template dataset` gives zero-shot CLIP the template of “bias”" in note
    assert Comparison(runs["bias"], template="dataset").template_note() == ""
    prompts = Comparison(runs["deep"], template="an image of {}.").template_note()
    assert "deep prompts 3+4 “a photo of a {}.”" in prompts and "--template" not in prompts  # prompts replace the words


# ---- bad input


def test_folders_without_a_finished_run_are_refused(runs, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        load_trainer(str(tmp_path))
    os.makedirs(tmp_path / "broken")
    config = seals.read_text(os.path.join(runs["deep"], "config.yaml"))
    for text in ("TRAINER: IVLP\n", "DATASET: {}\n"):
        (tmp_path / "broken" / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="its TRAINER is no section"):
            load_trainer(str(tmp_path / "broken"))
    (tmp_path / "broken" / "config.yaml").write_text(config)
    with pytest.raises(UserError, match="is not finished"):
        load_trainer(str(tmp_path / "broken"))
    (tmp_path / "broken" / "results.json").write_text('{"accuracy": 50, "macro_f1": 50}')
    with pytest.raises(UserError, match="train first"):
        load_trainer(str(tmp_path / "broken"))
    (tmp_path / "broken" / "config.yaml").write_text(config.replace("NAME: IVLP", "NAME: CoOp"))
    with pytest.raises(UserError, match='a run of "CoOp", which cannot be loaded'):
        load_trainer(str(tmp_path / "broken"))


def test_runs_of_other_data_are_not_compared(runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs["bias"], other)
    config = seals.read_text(str(other / "config.yaml"))
    (other / "config.yaml").write_text(config.replace("SUBSAMPLE_CLASSES: all", "SUBSAMPLE_CLASSES: base"))
    with pytest.raises(UserError, match="cannot be compared"):
        Comparison(runs["deep"], [str(other)])


def test_differing_classes_are_named_briefly():
    names = [f"class {i}" for i in range(100)]
    expected = 'it has 50 classes, and this one 100; class 51 is "none", not "class 50"'
    assert first_difference(names, names[:50]) == expected
    expected = 'it has 2 classes, and this one 2; class 2 is "cow", not "dog"'
    assert first_difference(["cat", "dog"], ["cat", "cow"]) == expected
    assert first_difference(names, names) == ""


def test_a_run_of_an_unknown_dataset_is_one_sentence(runs, tmp_path):
    shutil.copytree(runs["bias"], tmp_path / "run")
    config = seals.read_text(str(tmp_path / "run" / "config.yaml"))
    (tmp_path / "run" / "config.yaml").write_text(config.replace("NAME: ImageFolder", "NAME: Nowhere"))
    with pytest.raises(UserError, match="Nowhere"):
        load_trainer(str(tmp_path / "run"))


def test_a_run_is_not_compared_with_itself(runs):
    with pytest.raises(UserError, match="is named twice"):
        Comparison(runs["bias"], [os.path.join(runs["bias"], "")])


def test_few_shot_images_are_limited_evenly_over_the_classes(runs):
    everything = Comparison(runs["deep"])
    labels = torch.cat([label for _, label in everything.batches(split="train")])
    few = everything.stratified(6, 3)
    assert sorted(torch.cat([label for _, label in few.batches(split="train")]).tolist()) == [0, 1, 2]
    assert len(few) == 6 and len(everything.few_shot) == len(labels) > 3
    for same in (everything.stratified(6), everything.stratified(6, 1000)):
        assert torch.equal(torch.cat([label for _, label in same.batches(split="train")]), labels)


def test_what_figures_share_is_computed_once_for_the_same_images(runs, monkeypatch):
    comparison = Comparison(runs["deep"])
    asked = []
    passes = shared.model_outcomes
    monkeypatch.setattr(shared, "model_outcomes", lambda models, _: asked.append(list(models)) or passes(models, _))
    labels = list(comparison.models)
    few = comparison.stratified(6, 3)
    assert np.array_equal(shared.outcomes(few, labels[1:])[labels[1]], shared.outcomes(few, labels)[labels[1]])
    assert len(shared.outcomes(comparison, labels)[labels[0]]) == len(comparison)
    assert asked == [labels[1:], labels[:1], labels]
    assert shared.mean_terms(few) is shared.mean_terms(few) is not shared.mean_terms(comparison)
    assert shared.mean_terms(few)["vision"].count[1] == 3
