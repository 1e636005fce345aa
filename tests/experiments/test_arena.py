"""The arena: equal terms, learning rates chosen on validation images, paired intervals, and what is written."""

import csv
import json
import math
import os

import numpy as np
import pytest
from conftest import ROOT, THREE_BLOCKS
from hypothesis import given, settings
from hypothesis import strategies as st

from promptbias.analysis.__main__ import main
from promptbias.analysis.arena_entries import ACCURACIES, Entry, Found, pareto_front
from promptbias.analysis.arena_tables import as_latex, as_markdown, plot
from promptbias.engine import train
from promptbias.engine.predictions import Prediction, write_predictions
from promptbias.engine.run_folder import RESULTS
from promptbias.experiments import arena
from promptbias.experiments.arena import BASE, EVERY, NEW, Arena, choose, find_contestant, outcomes
from promptbias.experiments.paper import Absent
from promptbias.experiments.results import harmonic_mean
from promptbias.utils.errors import UserError
from promptbias.utils.seals import seal_json


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("promptbias.analysis.figures.DPI", 40)


def place(tmp_path, **more):
    options = {"dataset": "digits", "shots": 4, "seeds": (1, 2), "grid": (1.0, 3.0), "data": "data", **more}
    return Arena(**options, output=str(tmp_path))


def test_budget_splits_and_augmentation_are_the_same_for_all(tmp_path):
    here = place(tmp_path)
    budget = here.budget()
    contestants = [find_contestant(name, "digits") for name in ("LoRA", "ivlp:deep", "BiasTuning")]
    configs = [here.training(c, EVERY, here.rates(c)[0], 2, budget).config() for c in contestants]
    for key in ("OPTIM.MAX_EPOCH", "DATALOADER.TRAIN_X.BATCH_SIZE", "INPUT.TRANSFORMS", "DATASET.NUM_SHOTS", "SEED"):
        values = set()
        for cfg in configs:
            for part in key.split("."):
                cfg = cfg[part]
            values.add(str(cfg))
        assert len(values) == 1, key
    assert [str(cfg.TRAINER.NAME) for cfg in configs] == ["LoRA", "IVLP", "BiasTuning"]
    assert [c.name for c in contestants] == ["LoRA", "IVLP:deep", "BiasTuning"]


def test_trainings_see_validation_images_and_tests_what_was_trained_on_their_classes(tmp_path):
    here = place(tmp_path, extra=("OPTIM.MAX_EPOCH", "2"))
    bias, budget = find_contestant("BiasTuning", "digits"), here.budget()
    assert here.rates(bias) == [1.0, 3.0] and dict(zip(budget[::2], budget[1::2]))["OPTIM.MAX_EPOCH"] == "2"
    training = here.training(bias, BASE, 3.0, 1, budget)
    cfg = training.config()
    assert (cfg.TEST.SPLIT, cfg.OPTIM.LR, cfg.DATASET.SUBSAMPLE_CLASSES, cfg.OPTIM.MAX_EPOCH) == ("val", 3.0, "base", 2)
    test = here.test(bias, NEW, 3.0, 1, budget)
    assert test.model_dir == training.folder and test.folder != training.folder and not test.is_trained
    assert (test.config().TEST.SPLIT, test.config().DATASET.SUBSAMPLE_CLASSES) == ("test", "new")
    assert here.test(bias, EVERY, 1.0, 2, budget).model_dir == here.training(bias, EVERY, 1.0, 2, budget).folder


@pytest.mark.parametrize(
    "means, best",
    [({0.1: 60, 1.0: 70}, 1.0), ({1.0: 70, 0.1: 70}, 0.1), ({0.1: math.nan, 1.0: 5}, 1.0), ({0.1: math.nan}, None)],
)
def test_the_best_learning_rate_is_chosen(means, best):
    assert choose(means) == best


def test_where_the_test_images_are_the_validation_images_nothing_is_chosen():
    with pytest.raises(UserError, match="imagenet has no validation images of its own") as caught:
        arena.check_validation("imagenet", (1, 3))
    assert "\n" not in str(caught.value)
    arena.check_validation("imagenet", (1,))
    arena.check_validation("digits", (1, 3))


def test_outcomes_are_matched_by_image(tmp_path):
    rows = [Prediction("a.png", "x", "x", 0.5), Prediction("b.png", "x", "y", 0.5), Prediction("c.png", "y", "y", 0.5)]
    folders = [str(tmp_path / name) for name in "pqr"]
    for folder, written in zip(folders, (rows, rows[::-1], rows[:2])):
        write_run(folder, written)
    assert outcomes(folders[:2]).tolist() == [[1, 0, 1], [1, 0, 1]]
    with pytest.raises(UserError, match="was not tested on the same images"):
        outcomes(folders)


def write_run(folder, rows):
    """The files of a run that was tested."""
    right = [row.true == row.predicted for row in rows]
    content = {
        "accuracy": 100 * sum(right) / len(right),
        "macro_f1": 50.0,
        "seconds": {"train": 1.0, "test": 1.0},
        "counts": {"train": 2, "test": len(rows)},
    }
    write_predictions(rows, folder)
    with open(os.path.join(folder, RESULTS), "w", encoding="utf-8") as file:
        json.dump(seal_json(content), file)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_predictions_that_were_edited_are_refused(tmp_path_factory, right, data):
    folder = str(tmp_path_factory.mktemp("run"))
    rows = [Prediction(f"{i}.png", "x", "x" if good else "y", 0.5) for i, good in enumerate(right)]
    write_run(folder, rows)
    assert outcomes([folder]).tolist() == [right]
    at = data.draw(st.integers(0, len(rows) - 1))
    change = data.draw(st.sampled_from(["removed", "doubled", "relabelled"]))
    edited = {
        "removed": rows[:at] + rows[at + 1 :],
        "doubled": [*rows, rows[at]],
        "relabelled": [*rows[:at], rows[at]._replace(predicted="y" if right[at] else "x"), *rows[at + 1 :]],
    }[change]
    write_predictions(edited, folder)
    with pytest.raises(UserError, match="holds other predictions than its results were counted from; remove"):
        outcomes([folder])


def entry(name, parameters, seed, rates=(0.6, 0.8, 0.7), **more):
    random = np.random.default_rng(seed)
    sizes = {EVERY: 300, BASE: 150, NEW: 150}
    correct = {group: (random.random((2, n)) < rate).mean(0) for (group, n), rate in zip(sizes.items(), rates)}
    trained = {"rates": {EVERY: {0.1: 60.0, 1.0: 70.0}}, "chosen": {EVERY: 1.0}} if parameters else {}
    options = {
        "rates": {},
        "chosen": {},
        "macro_f1": [60.0, 61.0],
        "inference": "none",
        "folds": True,
        **trained,
        **more,
    }
    return Entry(arena.Contestant(name, "tiny", name), correct=correct, parameters=parameters, **options)


@pytest.fixture
def found(tmp_path):
    best = entry("LoRA", 900, 3, (0.9, 0.9, 0.5), folds=False, step=0.5, train=9.0, test=1.0, published=80.0)
    return Found(place(tmp_path), [entry("ZeroshotCLIP", 0, 1), entry("BiasTuning", 100, 2), best])


def test_differences_are_paired_and_of_what_the_images_say(found):
    zero_shot, bias, lora = found.entries
    values = lora.values()
    assert values[EVERY] == pytest.approx(100 * lora.correct[EVERY].mean())
    assert values["harmonic mean"] == pytest.approx(harmonic_mean(values[BASE], values[NEW]))
    differences = found.differences()
    assert list(differences) == [("BiasTuning", "ZeroshotCLIP"), ("LoRA", "ZeroshotCLIP"), ("LoRA", "BiasTuning")]
    ahead = differences["LoRA", "ZeroshotCLIP"][EVERY]
    by_image = 100 * (lora.correct[EVERY] - zero_shot.correct[EVERY])
    assert float(ahead) == pytest.approx(by_image.mean())
    half = 1.96 * by_image.std() / math.sqrt(len(by_image))  # the normal approximation of the same interval
    assert ahead.interval == pytest.approx((by_image.mean() - half, by_image.mean() + half), abs=0.7)
    twin = Found(found.arena, [bias, entry("Twin", 100, 2)]).differences()["Twin", "BiasTuning"]
    assert all((float(value), value.interval) == (0, (0, 0)) for value in twin.values())


def test_the_pareto_front_leaves_out_what_is_beaten(found):
    worse = entry("Worse", 500, 4, (0.3, 0.3, 0.3))
    names = [entry.name for entry in pareto_front([*found.entries[1:], worse])]
    assert names == ["BiasTuning", "LoRA"]


def test_tables_say_how_rates_were_chosen_and_give_every_claim_an_interval(found):
    text = as_markdown(found)
    assert "validation images" in text and "times 1, 3" in text and "**1: 70.0**" in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| LoRA")]
    accuracies = rows[0]
    assert [cell.strip() for cell in accuracies][:2] == ["LoRA", "900"] and accuracies[-1].strip() == "80.0"
    assert all("[" in cell for cell in accuracies[2:6])
    ahead = [row for row in rows if "−" in row[0]]
    assert len(ahead) == 2 and all("[" in cell for row in ahead for cell in row[1:])
    latex = as_latex(found)
    assert latex.count("\\toprule") >= 4 and "±" not in latex and "**" not in latex


def test_published_numbers_have_a_source_and_are_harmonic_means():
    with open(arena.PUBLISHED, encoding="utf-8") as file:
        entries = json.load(file)["base_to_new"]
    for numbers in entries:
        assert numbers["source"] and numbers["method"]
        assert harmonic_mean(numbers["base"], numbers["new"]) == pytest.approx(numbers["harmonic_mean"], abs=0.02)
    assert arena.published_accuracy(arena.Contestant("BiasTuning", "vit_b16", ""), "eurosat") == 86.5
    assert arena.published_accuracy(find_contestant("BiasTuning", "digits"), "digits") is Absent.MISSING


def test_the_figure_shows_every_method(found):
    (ax,) = plot(found).axes
    labels = ax.get_legend_handles_labels()[1]
    assert {"ZeroshotCLIP", "BiasTuning", "LoRA", "Pareto front"} == set(labels)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--methods", "BiasTunin"], 'there is no method "BiasTunin"'),
        (["--methods", "BiasTuning:huge"], 'there is no configuration "huge"'),
        (["--methods", "LoRA", "--datasets", "digit"], 'there is no dataset in the tables "digit"'),
        (["--methods", "LoRA", "--grid", "0"], "--grid is 0.0, but must be numbers above 0"),
        (["--methods", "LoRA", "--on", "slurm"], "not one array script; use --on ray"),
        (["--methods", "LoRA", "--seeds", "1", "2", "1"], '--seeds is "1 2 1", which names seed 1 twice'),
        (["--methods", "LoRA", "--seeds", "-1"], '--seeds is "-1", but must be whole numbers'),
        (["--methods", "LoRA", "--extra", "TEST.SPLIT", "test"], "TEST.SPLIT .* chooses learning rates on validation"),
        (["--methods", "LoRA", "--extra", "OPTIM.LR", "1"], "OPTIM.LR .* its value comes from --grid"),
        (
            ["--methods", "LoRA", "--extra", "DATASET.NUM_SHOTS", "4"],
            "DATASET.NUM_SHOTS .* its value comes from --shots",
        ),
        (["--methods", "LoRA", "--shots", "0"], "--shots is 0, but must be at least 1"),
        (["--methods", "LoRA", "--datasets", "imagenet"], "imagenet has no validation images of its own"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, flags, said):
    with pytest.raises(UserError, match=said) as caught:
        main(["arena", *flags, "--output", str(tmp_path)])
    assert "\n" not in str(caught.value) and not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_small_arena(data_root, weights_file, tmp_path, monkeypatch, capsys):
    performed = []

    def perform(run, threads=None):
        """`Run.perform` without a process of its own."""
        performed.append(run)
        train.main(run.argv)
        return ""

    monkeypatch.setattr("promptbias.experiments.runs.Run.perform", perform)
    extra = ["MODEL.BACKBONE.NAME", weights_file, "INPUT.SIZE", "(32, 32)", "OPTIM.MAX_EPOCH", "1", *THREE_BLOCKS]
    flags = ["--seeds", "1", "--shots", "1", "--grid", "1", "3", "--root", data_root, "--output", str(tmp_path)]
    command = ["arena", "--methods", "BiasTuning", *flags, "--few-shot-only", "--extra", *extra]
    main([*command, "--dry-run"])
    assert not performed and "--seed 1 --trainer BiasTuning" in capsys.readouterr().out
    main(command)
    text = capsys.readouterr().out
    assert [bool(run.model_dir) for run in performed] == [False, False, False, True]  # two rates, zero-shot, the test
    assert sum(run.config().TEST.SPLIT == "test" for run in performed) == 2
    assert "| BiasTuning − ZeroshotCLIP" in text
    folder = tmp_path / "arena"
    names = {f"digits_1shots.{ending}" for ending in ("md", "tex", "csv", "npz")}
    assert names | {"digits_1shots_pareto.png", "digits_1shots_pareto.pdf"} <= set(os.listdir(folder))
    with open(folder / "digits_1shots.csv", newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    assert (
        rows["BiasTuning: accuracy, %"]["low"]
        and rows[f"BiasTuning - ZeroshotCLIP: {ACCURACIES[EVERY]}, points"]["high"]
    )
    main(command)
    assert len(performed) == 4  # finished runs are not repeated, those that only test included
