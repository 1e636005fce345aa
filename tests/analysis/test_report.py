"""The report: one page of all figures and of the worst mistakes."""

import base64
import io
import re
import shutil
import urllib.parse
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from promptbias.analysis import commands, mistakes, report
from promptbias.analysis.__main__ import main
from promptbias.analysis.accuracies import tabulate
from promptbias.analysis.comparison import Comparison
from promptbias.analysis.sections import Section, number_tables
from promptbias.engine.predictions import Prediction, read_predictions, write_predictions
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
    main(["report", "--output", str(folder), "--samples", "3", "--explore", "2", *map(str, argv)])
    return (folder / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deep", "bias"])
def test_the_report_is_one_page_that_needs_nothing_else(runs, tmp_path, name):
    """Figures that show compared runs are made of one run only, to save time: tests of their own compare runs."""
    compare = ["--compare", runs["shallow"]] if name == "deep" else []
    made = [figure for figure, command in commands.FIGURES.items() if not (compare and command.shows_compared_runs)]
    page = make(tmp_path, "--model-dir", runs[name], *compare, "--only", *made, "mean-to-bias")
    for section in {*made, "mean-to-bias"}:
        assert f'<h2 id="{section}">' in page and f'<a href="#{section}">' in page
    assert '<h2 id="mistakes">' in page and '<a href="#mistakes">' in page
    drawings, rest = re.findall(r"src='data:image/svg\+xml,([^']*)'", page), re.sub(r"src='[^']*'", "", page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', rest))
    assert "://" not in rest and len(drawings) == page.count("src='") > 0
    for drawing in map(urllib.parse.unquote, drawings):  # nothing in them is fetched
        assert set(re.findall(r'\s([\w:]+)="[^"]*://', drawing)) == {"xmlns", "xmlns:xlink"}
        assert ElementTree.fromstring(drawing).tag.endswith("}svg")
    links = re.findall(r'href="([^#"]+)"', rest)
    assert links and all((tmp_path / link).exists() for link in links)
    assert page.count("How to read it") + page.count("Left out") == len({*made, "mean-to-bias"})
    about_prompts = {"decompose", "ablations", "controls", "constancy", "mean-to-bias"}
    left_out = set(re.findall('<h2 id="([^"]*)">(?:(?!<h2).)*Left out', page, re.DOTALL)) - {"mistakes"}
    assert left_out == (about_prompts | {"foreground"} if name == "bias" else set())  # there are no masks
    assert page.count(commands.NOT_SHOWN) == (len(made) if compare else 0)
    assert ('<h2 id="findings">' in page) == ("[cls] attention stays" in page) == bool({"heatmap", "entropy"} & {*made})


def test_the_report_takes_the_options_of_its_figures(runs, tmp_path, only):
    only("contribution", "heatmap")
    page = make(tmp_path, "--model-dir", runs["deep"], "--first-block", 3, "--image", 2, "--angles", 90, "--blocks", 2)
    maps = np.load(tmp_path / "heatmap.npz")
    assert maps["90 degrees, [cls] attention, CLIP"].shape == (1, 32, 32)
    assert not any(name.startswith("0 degrees") for name in maps)
    assert page.count("<h2") == 5 and "mean correlation, [cls] attention" in page
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


def test_the_gallery_shows_the_surest_mistakes(tmp_path):
    """One image in eight thousand is opened: a test set may be that of ImageNet."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, colour in enumerate(["red", "lime"]):
        Image.new("RGB", (400, 200), colour).save(folder / f"{i}.png")
    rows = [Prediction(f"images/{i}.png", "cat", "dog" if i < 30 else "cat", 0.9 - i / 10_000) for i in range(8000)]
    write_predictions(rows[::-1], str(tmp_path))
    found = mistakes.find_mistakes(str(tmp_path), str(tmp_path))
    assert (found.wrong, found.total, found.confused) == (30, 8000, [("cat", "dog", 30)])
    assert [mistake.path for mistake in found.worst] == [f"images/{i}.png" for i in range(mistakes.SHOWN)]
    pictures = [Image.open(io.BytesIO(base64.b64decode(mistake.thumbnail))) for mistake in found.worst[:2]]
    for picture, colour in zip(pictures, [(254, 0, 0), (0, 255, 0)]):
        assert picture.size == (128, 64) and np.allclose(picture.getpixel((9, 9)), colour, atol=3)
    assert not any(mistake.thumbnail for mistake in found.worst[2:])  # which are gone, and said to be


def test_the_gallery_stands_on_the_page(runs, tmp_path, only):
    only("eos-attention")
    page = make(tmp_path, "--model-dir", runs["deep"])
    wrong = sorted((row for row in read_predictions(runs["deep"]) if row.true != row.predicted), key=lambda r: -r[3])
    assert (
        f"{len(wrong)} of 12 test images are classified wrongly" in page
        and page.count('<figure class="mistake">') == len(wrong) > 0
    )
    shown = re.findall(r"<figcaption>([^<]*?), taken for <strong>(.*?)</strong> \((.*?) %\)", page)
    assert [(true, predicted) for true, predicted, _ in shown] == [row[1:3] for row in wrong]
    assert float(shown[0][2]) == pytest.approx(100 * wrong[0].probability, abs=0.051)


def test_a_run_without_predictions_has_a_page_without_a_gallery():
    left_out = mistakes.Mistakes(left_out="no <predictions>")
    page = report.render({"title": "t"}, [], left_out)
    assert "Left out: no &lt;predictions&gt;." in page and "<figure" not in page
    assert "0 of 7 test images are classified wrongly." in report.render({"title": "t"}, [], mistakes.Mistakes(total=7))


def test_what_the_page_is_about_stands_at_its_top(runs, tmp_path, only):
    only("eos-attention")
    page = make(tmp_path, "--model-dir", runs["bias"], "--template", "an image of {} & more.")
    assert "<title>What tuning did to CLIP: bias on ImageFolder</title>" in page
    assert "<td>an image of {} &amp; more.</td>" in page and "12 test images, 3 classes, 2 shots" in page
    assert "on 3 of 12 test images, evenly spaced:" in page


def test_accuracies_of_seeds_are_averaged_and_tuning_is_counted_by_image():
    plain = [True, True, False, False]
    seeds = np.array([[plain, [True, False, True, True]], [plain, [True, True, True, True]]])
    heading, zero_shot, tuned = tabulate(["plain", "tuned"], seeds)
    assert zero_shot[1].startswith("50 [") and zero_shot[2:] == ["", "", ""]
    assert tuned[1].startswith("87.5 ± ") and tuned[2].startswith("37.5 ± ") and tuned[3:] == ["2", "0.5"]
    assert len(heading) == len(zero_shot) == len(tuned)


def test_further_runs_are_looked_up_before_work_begins(runs, tmp_path):
    argv = ["report", "--output", str(tmp_path / "out"), "--model-dir", str(runs["bias"])]
    with pytest.raises(UserError, match="none holds no run"):
        main([*argv, "--also", str(tmp_path / "none")])
    with pytest.raises(UserError, match="one by one"):
        main([*argv, "--also", str(runs["deep"]), "--compare", str(runs["deep"])])
    assert not (tmp_path / "out").exists()


def test_further_runs_have_pages_of_their_own_and_one_that_leads_to_them(runs, tmp_path, only):
    only("eos-attention")
    page = make(tmp_path, "--model-dir", runs["deep"], "--also", runs["bias"], "--explore", 0)
    links = [link.partition("#") for link in re.findall(r'href="([^"]*)"', page)]
    assert links and all((tmp_path / path).is_file() for path, _, _ in links)
    pages = {path for path, _, _ in links if path.endswith(".html")}
    assert len(pages) == 2 and all(f'id="{at}"' in (tmp_path / path).read_text() for path, _, at in links if at)
    assert page.count("like figure 4") == 2 and page.count("zero-shot CLIP") == 2


@pytest.mark.slow
def test_a_report_of_several_seeds(runs, tmp_path, capsys):
    for seed in (1, 2):
        shutil.copytree(runs["bias"], tmp_path / "kind" / f"seed{seed}")
    page = make(tmp_path / "out", "--seeds-of", tmp_path / "kind", "--only", "distance")
    assert "Mean over seeds 1, 2" in page and "From 3 of 12 test images, evenly spaced." in page
    assert "distance: as it was made before" not in capsys.readouterr().out


def test_a_second_report_makes_only_what_is_missing_or_has_changed(runs, tmp_path, monkeypatch, capsys):
    argv = ("--model-dir", runs["bias"], "--only", "eos-attention")
    first = make(tmp_path, *argv)
    assert re.search(r"about .* to go: eos-attention \d", capsys.readouterr().out)
    made = []
    monkeypatch.setattr(report, "make_section", lambda name, *_: made.append(name) or Section(name, "again"))
    assert make(tmp_path, *argv) == first and not made
    assert "as it was made before" in capsys.readouterr().out
    make(tmp_path, *argv, "--template", "an image of {}.")
    kept = tmp_path / ".sections" / "eos-attention.json"
    kept.write_text(kept.read_text().replace("again", "other"))
    make(tmp_path, *argv, "--template", "an image of {}.")
    assert made == ["eos-attention"] * 2


def test_tables_have_a_row_for_each_model_and_a_column_for_each_quantity():
    headlines = [("CLIP, area", 1.5), ("CLIP, deep, area", 2.0), ("CLIP: gap", 3), ("ratio", 0.25)]
    assert number_tables(headlines, ["CLIP", "CLIP, deep"]) == [
        [["model", "area", "gap"], ["CLIP", "1.5", "3"], ["CLIP, deep", "2", ""]],
        [["what", "value"], ["ratio", "0.25"]],
    ]
    headlines = [("share, CLIP: std", 1.0), ("none, vision: accuracy", 2.0), ("CLIP, α = 0: accuracy", 3.0)]
    assert number_tables(headlines, ["CLIP"]) == [
        [["what", "share: std", "accuracy"], ["CLIP", "1", ""], ["none, vision", "", "2"], ["CLIP, α = 0", "", "3"]]
    ]


def test_an_image_has_the_number_that_it_has_in_the_test_set_also_among_samples(runs):
    everything, few = Comparison(runs["bias"]), Comparison(runs["bias"], samples=3)
    image, label = everything.image(11)
    assert torch.equal(few.image(11)[0], image) and few.image(11)[1] == label
    labels = [everything.image(index)[1] for index in everything.stratified(3).indices]
    assert sorted(labels) == [0, 1, 2]
