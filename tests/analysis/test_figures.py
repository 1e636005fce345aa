"""The style of figures, their files, and that drawing them changes nothing else."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from conftest import ROOT

from promptbias.analysis import figures
from promptbias.analysis.estimates import Estimate
from promptbias.analysis.inset_plot import set_named_ticks


def test_long_titles_are_in_lines():
    assert figures.wrap("deep prompts 4+4, w prompt") == "deep prompts 4+4, w prompt"
    assert figures.wrap("deep prompts 4+4 (tiny_deep_16shots), w/o prompt").splitlines() == [
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
        (Estimate(2.5, std=0.25), "2.5 ± 0.25"),
        (Estimate(-2.5, interval=(-3, -2)), "-2.5 [-3, -2]"),
    ],
)
def test_numbers_are_written_without_powers(value, text):
    assert figures.format_number(value) == text


def test_ticks_are_thinned():
    ax = figures.subplots()[1][0, 0]
    set_named_ticks(ax, 3, [str(i) for i in range(56)])
    assert len(ax.get_xticks()) <= 15 and ax.get_xticks()[:2].tolist() == [3, 7]
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["0", "4"]


def test_the_theme_lasts_only_while_a_figure_is_drawn():
    before = dict(matplotlib.rcParams)
    with figures.theme():
        assert matplotlib.rcParams["font.size"] == 8
    assert dict(matplotlib.rcParams) == before


def test_importing_and_drawing_leaves_matplotlib_as_it_was(tmp_path):
    """No backend is chosen, no setting changed, and pyplot is not even imported."""
    code = """
import sys, matplotlib
def settings():  # asking for the backend as usual would choose one, and import pyplot
    return [dict.__getitem__(matplotlib.rcParams, key) for key in matplotlib.rcParams]
before = settings()
import numpy as np
from promptbias.analysis import contribution, distance, entropy, eos_attention, figures, heatmap, report
from promptbias.analysis.figures import HeadPanel, Result
figure = figures.theme()(figures.heads_grid)([HeadPanel("a", np.zeros((3, 2)), 0)] * 2, "y", (1.0, "line"))
figures.save(Result("", [("x", 1)], {"figure": figure}), sys.argv[1], "name")
assert settings() == before and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").exists()


def test_a_result_is_written_as_pictures_numbers_and_headlines(tmp_path):
    figure, axes = figures.subplots()
    axes[0, 0].plot([0, 1])
    numbers = [("what", 1.00000005), ("n", 540), ("gap", Estimate(np.float32(0.1), interval=(0.05, 0.2), std=0.3))]
    result = figures.Result("read", numbers, {"stem": figure}, {"values": np.arange(3)})
    written = figures.save(result, str(tmp_path), "name")
    assert sorted(map(os.path.basename, written)) == sorted(os.listdir(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["name.csv", "name.npz", "stem.pdf", "stem.png"]
    assert np.load(tmp_path / "name.npz")["values"].tolist() == [0, 1, 2]
    assert (tmp_path / "name.csv").read_text().splitlines() == [
        "what,value,low,high,std",
        "what,1,,,",
        "n,540,,,",
        "gap,0.1,0.05,0.2,0.3",
    ]
