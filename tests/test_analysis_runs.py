"""`python -m analysis` on small finished runs: loading, files, batch sizes, the report, and what it refuses."""
import csv
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from analysis import __main__ as command_line
from analysis import contribution, distance, entropy, eos_attention, figures, heatmap
from analysis.run import Study, load_run, spread
from conftest import ROOT, THREE_BLOCKS
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from trainers.tuning.errors import UserError

CLASSES = ["cat", "permanent crop land", "highway or road"]
MINE = {"contribution": contribution, "eos-attention": eos_attention, "distance": distance, "entropy": entropy,
        "heatmap": heatmap}


@pytest.fixture(scope="session")
def runs(tmp_path_factory, weights_file):
    """Folders of finished runs by name, on 3 classes with 2 training and 4 test images each."""
    datasets.register_all()
    base = tmp_path_factory.mktemp("analysis")
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

    return {
        "deep": train("deep", "IVLP", "TRAINER.IVLP.N_CTX_VISION", 3),
        "shallow": train("shallow", "IVLP", "TRAINER.IVLP.PROMPT_DEPTH_VISION", 1, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", 1),
        "bias": train("bias", "BiasTuning"),
    }


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    monkeypatch.setitem(figures.plt.rcParams, "savefig.dpi", 40)


@pytest.fixture(scope="session")
def study(runs):
    return Study(runs["deep"], [runs["shallow"], runs["bias"]])


def call(*words):
    command_line.main([str(word) for word in words])


def result_of(name, study, *words):
    args = command_line.make_parser(name).parse_args(["--model-dir", "", *map(str, words)])
    return MINE[name].run(study, args)


def test_a_run_is_loaded_as_it_was_trained(runs):
    for name, node in (("deep", "IVLP"), ("bias", "BIASTUNING")):
        trainer = load_run(runs[name])
        assert trainer.cfg.TRAINER[node].PREC == "fp32" and not any(p.requires_grad for p in trainer.model.parameters())
        folder = os.path.join(runs[name], trainer.learner_name)
        saved = torch.load(os.path.join(folder, open(os.path.join(folder, "checkpoint")).read().strip()), weights_only=True)
        for key, value in trainer.model.learner.state_dict().items():
            assert torch.equal(value, saved["state_dict"][key])


def test_a_study_holds_the_models_and_the_images(study, runs):
    assert list(study.models) == ["zero-shot CLIP", "deep prompts 3+4", "shallow prompts 4+4", "bias"]
    assert study.label == "deep prompts 3+4" and study.models[study.label] is study.tuned
    assert study.plain.template == "a photo of a {}." and study.classnames == sorted(CLASSES)
    images, labels = zip(*study.batches())
    assert torch.cat(labels).tolist() == [0] * 4 + [1] * 4 + [2] * 4 and len(study) == 12
    image, label = study.image(5)
    assert torch.equal(image[0], torch.cat(images)[5]) and label == 1
    assert study.picture(image).shape == (32, 32, 3) and 0 <= study.picture(image).min() <= study.picture(image).max() <= 1
    assert sum(len(label) for _, label in study.batches(split="train")) == 6
    assert Study(runs["bias"], template="dataset").plain.template == Study(runs["bias"]).tuned.template


def test_samples_are_spread_over_the_test_set():
    assert spread(range(12), 4) == [0, 3, 6, 9]
    assert spread(range(12), None) == spread(range(12), 12) == list(range(12))


@pytest.mark.parametrize("name", MINE)
def test_results_do_not_depend_on_the_batch_size(name, study, monkeypatch):
    results = []
    for size in (12, 5):
        monkeypatch.setattr(study, "batch_size", size)
        results.append(result_of(name, study))
    whole, parts = results
    assert whole.numbers.keys() == parts.numbers.keys()
    for key, values in whole.numbers.items():
        np.testing.assert_allclose(values, parts.numbers[key], rtol=1e-3, atol=1e-5, err_msg=key)
    assert [what for what, _ in whole.headlines] == [what for what, _ in parts.headlines]
    figures.plt.close("all")


def test_contributions_are_shares(study):
    result = result_of("contribution", study)
    for label, model in study.models.items():
        text, image = result.numbers[f"{label}: text"], result.numbers[f"{label}: image"]
        assert text.sum() == pytest.approx(1) and image.sum() == pytest.approx(1)
        assert result.numbers[f"{label}: patches alone"].sum() == pytest.approx(1)
        assert not text[int(model.text.tokens.argmax(-1).max()):].any()
        assert len(image) == 16 + {"deep prompts 3+4": 3, "shallow prompts 4+4": 4}.get(label, 0)
    assert result.numbers["zero-shot CLIP: rank correlation"] == pytest.approx(1)
    figures.plt.close("all")


def test_one_set_of_samples_for_all_curves(study):
    """"corrected" are the images that plain CLIP misses and the tuned run gets right, for every model alike."""
    wanted = []
    for image, label in study.batches():
        wanted += ((study.plain(image).argmax(-1) != label) & (study.tuned(image).argmax(-1) == label)).tolist()
    if not any(wanted):
        pytest.skip("the tuned run corrects nothing here")
    result = result_of("contribution", study, "--select", "corrected")
    assert result.headlines[0] == ("images", sum(wanted))
    figures.plt.close("all")


def test_a_figure_leaves_its_files(runs, tmp_path, capsys):
    call("distance", "--model-dir", runs["bias"], "--output", tmp_path, "--samples", 3)
    assert sorted(os.listdir(tmp_path)) == ["distance.csv", "distance.npz", "distance.pdf", "distance.png"]
    assert np.load(tmp_path / "distance.npz")["bias"].shape == (3, 2)
    rows = list(csv.reader(open(tmp_path / "distance.csv")))
    assert rows[0] == ["what", "value"] and len(rows) == 3
    printed = capsys.readouterr().out
    assert "mean attention distance in pixels, bias: " in printed and str(tmp_path / "distance.png") in printed


def test_the_same_figure_is_the_same_file(study, tmp_path):
    for folder in ("a", "b"):
        figures.save(result_of("eos-attention", study), str(tmp_path / folder), "eos-attention")
    for name in os.listdir(tmp_path / "a"):
        if not name.endswith(".npz"):  # a zip, which holds the time
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name, compare", [("deep", ["--compare", "shallow"]), ("bias", [])])
def test_the_report_is_one_page_that_needs_nothing_else(runs, tmp_path, name, compare):
    call("report", "--model-dir", runs[name], *(runs.get(word, word) for word in compare), "--output", tmp_path, "--samples", 3)
    page = (tmp_path / "index.html").read_text()
    for section in command_line.FIGURES:
        assert f'<h2 id="{section}">' in page
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert not re.search(r'(href|src)="(?!#|data:)', page) and "://" not in page
    assert all((tmp_path / f"{section}.npz").exists() for section in MINE)
    assert page.count("How to read it") + page.count("Left out") == len(command_line.FIGURES)
    assert ("Left out" in page) == (name == "bias")


def test_help_is_fast_and_explains_each_command():
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "analysis", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and time.perf_counter() - started < 5
    assert "torch" not in done.stderr
    for name in {**command_line.FIGURES, **command_line.OTHERS}:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
    for name in command_line.FIGURES:
        assert "--model-dir" in command_line.make_parser(name).format_help()


# ---- bad input


@pytest.mark.parametrize("words, message", [
    (["distance", "--samples", "13"], "--samples is 13, but has to be between 1 and 12"),
    (["distance", "--samples", "0"], "--samples is 0"),
    (["distance", "--batch-size", "0"], "--batch-size is 0"),
    (["distance", "--template", "a photo"], "needs one {}"),
    (["heatmap", "--blocks", "4"], "there is no block 4: blocks are numbered from 1 to 3"),
    (["heatmap", "--heads", "0"], "there is no head 0: heads are numbered from 1 to 2"),
    (["heatmap", "--image", "12"], "there is no test image 12"),
    (["contribution", "--first-block", "4"], "there is no block 4"),
    (["contribution", "--select", "corrected", "--samples", "1"], "missed by zero-shot CLIP and got right by"),
])
def test_bad_input_gets_one_sentence(runs, tmp_path, words, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        call(*words, "--model-dir", runs["deep"], "--output", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_folders_without_a_finished_run_are_refused(runs, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        load_run(str(tmp_path))
    os.makedirs(tmp_path / "broken")
    config = open(os.path.join(runs["deep"], "config.yaml")).read()
    (tmp_path / "broken" / "config.yaml").write_text(config)
    with pytest.raises(UserError, match="is not finished"):
        load_run(str(tmp_path / "broken"))
    (tmp_path / "broken" / "results.json").write_text("{}")
    with pytest.raises(UserError, match="train first"):
        load_run(str(tmp_path / "broken"))
    (tmp_path / "broken" / "config.yaml").write_text(config.replace("NAME: IVLP", "NAME: CoOp"))
    with pytest.raises(UserError, match='a run of "CoOp", which cannot be analysed'):
        load_run(str(tmp_path / "broken"))


def test_runs_of_other_data_are_not_compared(runs, tmp_path):
    other = tmp_path / "other"
    os.makedirs(other / "BlockBias")
    for name in ("config.yaml", "results.json"):
        text = open(os.path.join(runs["bias"], name)).read()
        (other / name).write_text(text.replace("SUBSAMPLE_CLASSES: all", "SUBSAMPLE_CLASSES: base"))
    for name in os.listdir(os.path.join(runs["bias"], "BlockBias")):
        with open(os.path.join(runs["bias"], "BlockBias", name), "rb") as file:
            (other / "BlockBias" / name).write_bytes(file.read())
    with pytest.raises(UserError, match="cannot be compared"):
        Study(runs["deep"], [str(other)])


def test_an_output_that_cannot_be_written_is_one_sentence(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        call("eos-attention", "--model-dir", runs["bias"], "--output", tmp_path / "file" / "report")
