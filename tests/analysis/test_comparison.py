"""`python -m analysis` on small finished runs: loading, files, batch sizes, the report, and what it refuses."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from promptbias import datasets
from promptbias.analysis import __main__ as command_line
from promptbias.analysis import contribution, distance, entropy, eos_attention, figures, heatmap, truth
from promptbias.analysis.run import Study, first_difference, load_run, spread
from conftest import ROOT, THREE_BLOCKS
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from promptbias.trainers import ivlp
from promptbias.utils.errors import UserError

CLASSES = ["cat", "permanent crop land", "highway or road"]
MINE = {
    "contribution": contribution,
    "eos-attention": eos_attention,
    "distance": distance,
    "entropy": entropy,
    "heatmap": heatmap,
    "truth": truth,
}


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
        saved = torch.load(
            os.path.join(folder, open(os.path.join(folder, "checkpoint")).read().strip()), weights_only=True
        )
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
    assert (
        study.picture(image).shape == (32, 32, 3) and 0 <= study.picture(image).min() <= study.picture(image).max() <= 1
    )
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
        assert not text[int(model.text.tokens.argmax(-1).max()) :].any()
        assert len(image) == 16 + {"deep prompts 3+4": 3, "shallow prompts 4+4": 4}.get(label, 0)
    assert result.numbers["zero-shot CLIP: rank correlation"] == pytest.approx(1)
    figures.plt.close("all")


def test_one_set_of_samples_for_all_curves(study):
    """ "corrected" are the images that plain CLIP misses and the tuned run gets right, for every model alike."""
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
    assert rows[0] == ["what", "value"] and len(rows) == 4
    printed = capsys.readouterr().out
    assert "A head that looks only at itself is at 0" in printed and "w/o prompt" not in printed  # the run has none
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
    call(
        "report",
        "--model-dir",
        runs[name],
        *(runs.get(word, word) for word in compare),
        "--output",
        tmp_path,
        "--samples",
        3,
    )
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
    words = [sys.executable, "-X", "importtime", "-m", "analysis", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and time.perf_counter() - started < 5
    assert "torch" not in done.stderr
    for name in {**command_line.FIGURES, **command_line.OTHERS}:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
    for name in command_line.FIGURES:
        assert "--model-dir" in command_line.make_parser(name).format_help()


def test_runs_that_are_described_alike_are_told_apart_by_their_folders(runs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs["deep"], tmp_path / name / "seed1")
    labels = list(Study(str(tmp_path / "a" / "seed1"), [runs["bias"], str(tmp_path / "b" / "seed1")]).models)
    assert labels == ["zero-shot CLIP", "deep prompts 3+4 (a)", "bias", "deep prompts 3+4 (b)"]


def test_long_titles_are_in_lines():
    assert figures.wrapped("deep prompts 4+4, w prompt") == "deep prompts 4+4, w prompt"
    assert figures.wrapped("deep prompts 4+4 (tiny_deep_16shots), w/o prompt").splitlines() == [
        "deep prompts 4+4",
        "(tiny_deep_16shots)",
        "w/o prompt",
    ]


@pytest.mark.parametrize(
    "value, text",
    [
        (540, "540"),
        (np.int64(1234567), "1234567"),
        (12345.6, "12346"),
        (9999.9, "10000"),
        (0.00123456, "0.001235"),
        (74.259, "74.26"),
        (-2500.4, "-2500"),
        (1.4e-14, "1.4e-14"),
        (0.0, "0"),
    ],
)
def test_numbers_are_written_without_powers(value, text):
    assert figures.readable(value) == text


def test_a_figure_of_one_run_says_so_where_others_were_to_be_compared(runs, tmp_path, capsys):
    words = ["--model-dir", runs["deep"], "--compare", runs["bias"], "--samples", 3, "--output", tmp_path]
    call("constancy", *words)
    said = capsys.readouterr().out
    assert command_line.NOT_SHOWN in said and "(image: 51 inputs, of which 3 [cls]; text: " in said
    call("distance", *words)
    assert command_line.NOT_SHOWN not in capsys.readouterr().out


def test_words_that_differ_are_named_in_figures_about_text(runs, tmp_path):
    """The template is the dataset's, and plain CLIP's another."""
    for name in ("contribution", "eos-attention"):
        other, alike = (
            Study(runs["bias"], template=template) for template in ("an image of {}, a kind of place.", "dataset")
        )
        said = result_of(name, other).how_to_read
        assert "“bias” is “a photo of a {}.”, that of zero-shot CLIP “an image of {}, a kind of place.”" in said
        assert "--template dataset" in said and "--template" not in result_of(name, alike).how_to_read
        figures.plt.close("all")


def test_what_follows_the_class_name_is_a_dot_only_where_it_is_one(runs, study):
    pets = Study(runs["bias"], template="a photo of a {}, a type of pet.")
    for name in ("contribution", "eos-attention"):
        of_dots, of_words = ([what for what, _ in result_of(name, s).headlines] for s in (study, pets))
        assert any("“.”" in what for what in of_dots) and not any("words after" in what for what in of_dots)
        assert any("words after the class name" in what for what in of_words) and not any(
            "“.”" in what for what in of_words
        )
        figures.plt.close("all")


def test_prompts_and_words_share_a_panel_only_where_no_model_has_both(study, config, small_clip):
    titles = list(eos_attention.panels(study))
    assert titles == ["SOS", "prompts or template words", "class name", "“.”", "EOS"]
    two = ivlp.CustomCLIP(config("IVLP.N_CTX_TEXT", 2), CLASSES, small_clip)
    both = SimpleNamespace(models={**study.models, "2 prompts": two})
    assert list(eos_attention.panels(both)) == ["SOS", "prompts", "template words", *titles[2:]]


def test_ticks_are_thinned():
    ax = figures.subplots()[1][0, 0]
    contribution.some_ticks(ax, 3, [str(i) for i in range(56)])
    assert len(ax.get_xticks()) <= 15 and ax.get_xticks()[:2].tolist() == [3, 7]
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["0", "4"]
    figures.plt.close("all")


def test_names_in_the_archive_are_single_lines(study):
    result = result_of("heatmap", study, "--angles", 0, 270)
    assert "270 degrees, [cls] attention, CLIP" in result.numbers and not any("\n" in name for name in result.numbers)
    figures.plt.close("all")


# ---- bad input


@pytest.mark.parametrize(
    "words, message",
    [
        (["distance", "--samples", "13"], "--samples is 13, but has to be between 1 and 12"),
        (["distance", "--samples", "0"], "--samples is 0"),
        (["distance", "--batch-size", "0"], "--batch-size is 0"),
        (["distance", "--template", "a photo"], '--template is "a photo", but a template needs one {}'),
        (["distance", "--template", ""], '--template is ""'),
        (["heatmap", "--angles", "0", "45"], "--angles has 45, but angles have to be multiples of 90"),
        (["heatmap", "--blocks", "4"], "there is no block 4: blocks are numbered from 1 to 3"),
        (["heatmap", "--heads", "0"], "there is no head 0: heads are numbered from 1 to 2"),
        (["heatmap", "--image", "12"], "there is no test image 12"),
        (["contribution", "--first-block", "4"], "there is no block 4"),
        (["contribution", "--select", "corrected", "--samples", "1"], "missed by zero-shot CLIP and got right by"),
    ],
)
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


def test_differing_classes_are_named_briefly():
    names = [f"class {i}" for i in range(100)]
    assert first_difference(names, names[:50]) == 'it has 50 classes, not these 100: class 51 is "none", not "class 50"'
    assert (
        first_difference(["cat", "dog"], ["cat", "cow"]) == 'it has 2 classes, not these 2: class 2 is "cow", not "dog"'
    )


def test_a_run_of_an_unknown_dataset_is_one_sentence(runs, tmp_path):
    shutil.copytree(runs["bias"], tmp_path / "run")
    config = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config.replace("NAME: ImageFolder", "NAME: Nowhere"))
    with pytest.raises(UserError, match="config.yaml: .*Nowhere"):
        load_run(str(tmp_path / "run"))


def test_a_run_is_not_compared_with_itself(runs):
    with pytest.raises(UserError, match="is named twice"):
        Study(runs["bias"], [os.path.join(runs["bias"], "")])


@pytest.mark.parametrize("name", ["eos-attention", "report"])
def test_an_output_that_cannot_be_written_is_one_sentence_before_anything_is_loaded(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into .*--output"):
        call(name, "--model-dir", tmp_path / "no run", "--output", tmp_path / "file" / "report")
