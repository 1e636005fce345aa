"""`python -m analysis` and `promptbias analysis`: help, dispatch, files, old names, and what it refuses."""

import csv
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

from promptbias.analysis import commands
from promptbias.analysis.__main__ import main
from promptbias.utils.errors import UserError


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    monkeypatch.setattr("promptbias.analysis.figures.DPI", 40)


def call(*argv):
    main([str(argument) for argument in argv])


def test_help_is_fast_and_lists_each_command():
    started = time.perf_counter()
    argv = [sys.executable, "-X", "importtime", "-m", "analysis", "--help"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and time.perf_counter() - started < 5
    assert not re.search(r"\b(torch|numpy|matplotlib)\b", done.stderr)
    for name, command in commands.COMMANDS.items():
        assert re.search(rf"^    {name}\b", done.stdout, re.MULTILINE), name
        assert command.help.split()[0] in done.stdout


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_explains_its_own_options(name, capsys):
    with pytest.raises(SystemExit) as end:
        call(name, "--help")
    text = capsys.readouterr().out
    assert end.value.code == 0 and text.startswith(f"usage: python -m analysis {name} ")
    if name in commands.FIGURES:
        assert "--model-dir" in text
    own = {"contribution": "--first-block", "heatmap": "--angles", "report": "--select", "curves": "--numbers"}
    assert own.get(name, "") in text


def test_the_program_can_go_by_another_name(capsys):
    with pytest.raises(SystemExit):
        main(["entropy", "--help"], prog="promptbias analysis")
    assert capsys.readouterr().out.startswith("usage: promptbias analysis entropy ")


def test_a_figure_leaves_its_files(runs, tmp_path, capsys):
    call("distance", "--model-dir", runs["bias"], "--output", tmp_path, "--samples", 3)
    assert sorted(os.listdir(tmp_path)) == ["distance.csv", "distance.npz", "distance.pdf", "distance.png"]
    assert np.load(tmp_path / "distance.npz")["bias"].shape == (3, 2)
    with open(tmp_path / "distance.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["what", "value", "low", "high", "std"] and len(rows) == 4
    printed = capsys.readouterr().out
    assert "uniform attention is at the dashed line" in printed
    assert "mean attention distance in pixels, bias: " in printed and str(tmp_path / "distance.png") in printed


@pytest.mark.parametrize(
    "old, new", [("mechanism", "ablations"), ("truth", "faithfulness"), ("to-bias", "mean-to-bias")]
)
def test_an_old_name_works_with_a_note(old, new, capsys, monkeypatch):
    called = []
    monkeypatch.setattr("promptbias.analysis.__main__.make_figure", lambda name, args: called.append(name))
    monkeypatch.setattr(commands, "add_figure_options", lambda name, parser: None)
    call(old, "--model-dir", "run")
    assert called == [new] and capsys.readouterr().err == f'"{old}" is now called "{new}"\n'


def test_a_figure_without_the_compared_runs_says_so(runs, tmp_path, capsys):
    argv = ["--model-dir", runs["deep"], "--compare", runs["bias"], "--samples", 3, "--output", tmp_path]
    call("heatmap", *argv, "--angles", 0)
    assert commands.NOT_SHOWN in capsys.readouterr().out
    call("distance", *argv)
    assert commands.NOT_SHOWN not in capsys.readouterr().out


# ---- bad input


@pytest.mark.parametrize(
    "argv, message",
    [
        (["distance", "--samples", "13"], "--samples is 13, but must be between 1 and 12"),
        (["distance", "--samples", "0"], "--samples is 0"),
        (["distance", "--batch-size", "0"], "--batch-size is 0"),
        (["distance", "--template", "a photo"], '--template is "a photo", but a template needs one {}'),
        (["distance", "--template", ""], '--template is ""'),
        (["heatmap", "--angles", "0", "45"], "--angles has 45, but angles must be multiples of 90"),
        (["heatmap", "--blocks", "4"], "there is no block 4: blocks are numbered from 1 to 3"),
        (["heatmap", "--heads", "0"], "there is no head 0: heads are numbered from 1 to 2"),
        (["heatmap", "--image", "12"], "there is no test image 12"),
        (["contribution", "--first-block", "4"], "there is no block 4"),
        (
            ["contribution", "--select", "corrected", "--samples", "1"],
            "zero-shot CLIP and corrected by",
        ),
    ],
)
def test_bad_input_gets_one_sentence(runs, tmp_path, argv, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        call(*argv, "--model-dir", runs["deep"], "--output", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv, message", [(["entropi"], "invalid choice: 'entropi'"), ([], "required: NAME")])
def test_an_unknown_or_missing_command_is_refused_with_the_known_ones(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        call(*argv)
    assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["eos-attention", "report"])
def test_an_output_that_cannot_be_written_is_one_sentence_before_anything_is_loaded(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into .*--output"):
        call(name, "--model-dir", tmp_path / "no run", "--output", tmp_path / "file" / "report")
