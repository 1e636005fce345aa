"""The report: one page of all figures."""

import re

import numpy as np
import pytest

from promptbias.analysis import commands, report
from promptbias.analysis.__main__ import main
from promptbias.utils.errors import UserError


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    monkeypatch.setattr("promptbias.analysis.figures.DPI", 40)


@pytest.fixture
def only(monkeypatch):
    """only(names): a report of these figures."""

    def choose(*names):
        monkeypatch.setattr(report, "FIGURES", {name: commands.FIGURES[name] for name in names})

    return choose


def make(folder, *argv):
    main(["report", "--output", str(folder), "--samples", "3", *map(str, argv)])
    return (folder / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name, compare", [("deep", ["--compare", "shallow"]), ("bias", [])])
def test_the_report_is_one_page_that_needs_nothing_else(runs, tmp_path, name, compare):
    page = make(tmp_path, "--model-dir", runs[name], *(runs.get(argument, argument) for argument in compare))
    for section in commands.FIGURES:
        assert f'<h2 id="{section}">' in page and f'<a href="#{section}">' in page
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert not re.search(r'(href|src)="(?!#|data:)', page) and "://" not in page
    assert page.count("How to read it") + page.count("Left out") == len(commands.FIGURES)
    assert ("Left out" in page) == (name == "bias")
    assert page.count(commands.NOT_SHOWN) == (4 if compare else 0)


def test_the_report_takes_the_options_of_its_figures(runs, tmp_path, only):
    only("contribution", "heatmap")
    page = make(tmp_path, "--model-dir", runs["deep"], "--first-block", 3, "--image", 2, "--angles", 90, "--blocks", 2)
    maps = np.load(tmp_path / "heatmap.npz")
    assert maps["90 degrees, [cls] attention, CLIP"].shape == (1, 32, 32)
    assert not any(name.startswith("0 degrees") for name in maps)
    assert page.count("<h2") == 2 and "mean correlation, [cls] attention" in page
    by_report = np.load(tmp_path / "contribution.npz")["zero-shot CLIP: vision"]
    argv = ["--model-dir", runs["deep"], "--samples", "3", "--output", str(tmp_path / "own")]
    main(["contribution", "--first-block", "3", *argv])
    assert np.array_equal(np.load(tmp_path / "own" / "contribution.npz")["zero-shot CLIP: vision"], by_report)


def test_a_figure_that_cannot_be_made_is_left_out_with_a_note(runs, tmp_path, only, monkeypatch, capsys):
    only("distance", "entropy")

    def refuse(comparison, args):
        raise UserError("“bias” has no prompts <here>")

    monkeypatch.setattr("promptbias.analysis.distance.run", refuse)
    page = make(tmp_path, "--model-dir", runs["bias"])
    assert "Left out: “bias” has no prompts &lt;here&gt;." in page and page.count("How to read it") == 1
    assert "left out: “bias” has no prompts" in capsys.readouterr().out
    assert not (tmp_path / "distance.npz").exists()


def test_what_the_page_is_about_stands_at_its_top(runs, tmp_path, only):
    only("eos-attention")
    page = make(tmp_path, "--model-dir", runs["bias"], "--template", "an image of {} & more.")
    assert "<title>What tuning did to CLIP: bias on ImageFolder</title>" in page
    assert "<td>an image of {} &amp; more.</td>" in page and "3 test images, 3 classes, 2 shots" in page
