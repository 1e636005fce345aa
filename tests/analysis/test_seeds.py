"""Several seeds as one result, against plain means and standard deviations of single seeds."""

import argparse
import csv
import os
import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from promptbias.analysis import distance, figures, seeds
from promptbias.analysis.__main__ import main
from promptbias.analysis.arguments import load_comparison
from promptbias.analysis.comparison import Comparison
from promptbias.analysis.estimates import Estimate, over_seeds
from promptbias.utils.errors import UserError


@dataclass
class Found:
    title: str
    curve: np.ndarray
    by_image: np.ndarray
    number: float


def result(number, images=3):
    """What a figure finds: a curve, a point with an error bar, and numbers of which odd seeds lack one."""
    found = Found("curve", number * np.arange(4.0), np.full(images, number), float(number))
    return figures.Result("", headlines(found), plot(found), {"by_image": found.by_image}, found)


def headlines(found):
    rare = [] if found.number % 2 else [("rare", found.number)]
    return [("number", Estimate(found.number, interval=(0.0, found.number))), ("count", 7), *rare]


def plot(found):
    figure, axes = figures.subplots()
    axes[0, 0].plot(range(4), found.curve)
    axes[0, 0].plot(range(4), np.ones(4), "o", linestyle="none")
    axes[0, 0].errorbar([found.number], [0], xerr=[1], fmt="s")
    return {"stem": figure}


FIGURE = SimpleNamespace(plot=plot, describe=lambda found: f"About {found.title}.", headlines=headlines)


def combined(*numbers):
    return seeds.combine(FIGURE, [result(number) for number in numbers], range(1, 1 + len(numbers)))


def test_numbers_are_means_with_standard_deviations():
    numbers = dict(combined(1, 2, 6).headlines)
    assert numbers["number"] == pytest.approx(3) and numbers["number"].std == pytest.approx(np.std([1, 2, 6]))
    assert numbers["number"].interval == (0.0, 3.0)  # of the mean over seeds
    assert numbers["count"] == 7 and not isinstance(numbers["count"], Estimate)


def test_a_number_that_a_seed_lacks_says_of_how_many_it_is():
    numbers = dict(combined(1, 2, 6).headlines)
    assert "rare" not in numbers
    assert numbers["rare (2 of 3 seeds)"] == 4 and numbers["rare (2 of 3 seeds)"].std == 2


def test_one_seed_has_no_standard_deviation():
    numbers = dict(combined(2).headlines)
    assert numbers["number"] == 2 and numbers["number"].std is None
    assert figures.csv_row("number", numbers["number"]) == ("number", "2", "0", "2", "")
    assert "±" not in figures.format_number(numbers["number"])


def test_lines_have_bands_and_points_a_stroke_for_each_seed():
    ax = combined(1, 2, 6).figures["stem"].axes[0]
    line, dots, *_ = ax.lines
    assert np.allclose(line.get_ydata(), 3 * np.arange(4)) and np.allclose(dots.get_ydata(), 1)
    (band,) = (each for each in ax.collections if isinstance(each, PolyCollection))
    ends = band.get_paths()[0].vertices
    std = np.std([1, 2, 6])
    assert ends[:, 1].max() == pytest.approx(3 * (3 + std)) and ends[:, 1].min() == pytest.approx(0)
    assert ends[ends[:, 0] == 3, 1].min() == pytest.approx(3 * (3 - std))
    strokes = [float(each.get_xdata()[0]) for each in ax.lines if each.get_marker() == "|" and each.get_alpha() == 0.6]
    assert strokes == [1, 2, 6]


def test_arrays_keep_each_seed():
    arrays = combined(1, 2, 6).arrays
    assert arrays["by_image"].tolist() == [[1] * 3, [2] * 3, [6] * 3] and arrays["seeds"].tolist() == [1, 2, 3]
    of_other_images = [result(1), result(2, images=5)]
    arrays = seeds.stacked([each.arrays for each in of_other_images], [1, 4])
    assert arrays["by_image, seed 1"].shape == (3,) and arrays["by_image, seed 4"].shape == (5,)
    mean = seeds.mean_of([each.found for each in of_other_images])
    assert mean.by_image.tolist() == [1] * 3 + [2] * 5


def test_means_leave_out_what_is_not_a_number():
    mean = seeds.mean_of([np.array([1.0, np.nan, np.nan]), np.array([3.0, 4.0, np.nan])])
    np.testing.assert_array_equal(mean, [2, 4, np.nan])


def test_what_is_not_a_number_must_be_equal():
    assert seeds.mean_of([{"a": (1, "x")}] * 2) == {"a": (1, "x")}
    for first, second in ((1, 2), ("x", "y"), ({"a": 1.0}, {"b": 1.0}), ([1.0], [1.0, 2.0])):
        with pytest.raises(UserError, match="cannot be averaged"):
            seeds.mean_of([first, second])


# ---- finished runs


@pytest.fixture(scope="module")
def kinds(runs, train_run, tmp_path_factory):
    """Folders of runs: deep prompts and biases, seeds 1 and 2."""
    base = tmp_path_factory.mktemp("kinds")
    second = train_run("deep 2", "IVLP", "TRAINER.IVLP.N_CTX_VISION", 3, "OPTIM.MAX_EPOCH", 5)
    for kind, folders in {"deep": (runs["deep"], second), "bias": (runs["bias"], runs["bias"])}.items():
        for seed, folder in enumerate(folders, 1):
            shutil.copytree(folder, base / kind / f"seed{seed}")
    return base


def test_the_command_line_averages_what_it_finds_in_each_seed(kinds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("promptbias.analysis.figures.DPI", 40)
    deep, bias = str(kinds / "deep"), str(kinds / "bias")
    main(["distance", "--seeds-of", deep, bias, "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Mean over seeds 1, 2:" in printed and " ± " in printed
    single = []
    for seed in ("seed1", "seed2"):
        found = distance.compute(Comparison(os.path.join(deep, seed), [os.path.join(bias, seed)]))
        single.append(dict(distance.headlines(found)))
    with open(tmp_path / "distance.csv", newline="") as file:
        both = {row["what"]: row for row in csv.DictReader(file)}
    assert list(both) == list(single[0])
    for what, row in both.items():
        values = [numbers[what] for numbers in single]
        assert float(row["value"]) == pytest.approx(np.mean(values), rel=1e-5)  # six digits are written
        assert float(row["std"]) == pytest.approx(np.std(values), rel=1e-5)
    assert float(both["mean attention distance in pixels, deep prompts 3+4, w prompt"]["std"]) > 0


def test_a_figure_of_one_image_shows_the_first_seed_and_averages_its_numbers(kinds):
    def args(**runs):
        options = {"model_dir": None, "seeds_of": None, "compare": [], "template": "a photo of a {}.", "samples": 3}
        of_figure = {"batch_size": 32, "root": "", "image": 0, "angles": [0], "blocks": [1], "heads": None}
        return argparse.Namespace(**{**options, **of_figure, **runs})

    of_both = args(seeds_of=[str(kinds / "deep")])
    both = seeds.result_of("heatmap", load_comparison(of_both), of_both)
    assert "The figure shows seed 1 alone" in both.how_to_read
    single = [args(model_dir=str(kinds / "deep" / f"seed{seed}")) for seed in (1, 2)]
    single = [seeds.result_of("heatmap", load_comparison(each), each) for each in single]
    for numbers in zip(both.headlines, *(each.headlines for each in single)):
        mean, *values = (value for _, value in numbers)
        assert mean == pytest.approx(np.mean(values)) and mean.std == pytest.approx(np.std(values))
    for finding, *each in zip(both.findings, *(found.findings for found in single)):
        assert finding.value == pytest.approx(np.mean([one.value for one in each])) and finding.std > 0


def test_a_figure_without_numbers_shows_the_first_seed_and_says_so(kinds):
    args = argparse.Namespace(
        model_dir=None, seeds_of=[str(kinds / "deep")], compare=[], template="a photo of a {}.", samples=3,
        batch_size=32, root="", images=[0],
    )  # fmt: skip
    found = seeds.result_of("overlay", load_comparison(args), args)
    assert found.how_to_read.endswith("Of several seeds only seed 1 is shown: this figure is not averaged.")


def test_folders_with_different_seeds_are_refused(kinds, tmp_path):
    shutil.copytree(kinds / "bias" / "seed1", tmp_path / "short" / "seed1")
    short, deep = str(tmp_path / "short"), str(kinds / "deep")
    for folders in ([deep, short], [short, deep]):
        with pytest.raises(UserError, match="short has no seed2, which .*deep has; every folder needs the same seeds"):
            main(["distance", "--seeds-of", *folders])
    with pytest.raises(UserError, match="is named twice"):
        main(["distance", "--seeds-of", deep, deep])
    with pytest.raises(UserError, match="there is no folder seed1"):
        main(["distance", "--seeds-of", str(tmp_path)])
    with pytest.raises(UserError, match="--compare names single runs"):
        main(["distance", "--seeds-of", deep, "--compare", os.path.join(deep, "seed1")])


def test_runs_of_different_kinds_are_not_averaged(kinds, runs, tmp_path):
    for seed, name in ((1, "deep"), (2, "shallow")):
        shutil.copytree(runs[name], tmp_path / f"seed{seed}")
    with pytest.raises(UserError, match="the runs of seed 2 cannot be averaged with those of seed 1: they are"):
        main(["distance", "--seeds-of", str(tmp_path), "--output", str(tmp_path / "out")])


def test_equal_values_have_no_standard_deviation_from_rounding():
    values = [57.50200601805416] * 3
    assert np.std(values) > 0 and over_seeds(values).std == 0.0
