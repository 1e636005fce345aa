"""What later commands are given: settings that would break their terms, seeds, edited results, pipes."""

import os
import shutil

import pytest

from promptbias.analysis import report
from promptbias.analysis.__main__ import main as analysis
from promptbias.analysis.sections import Section
from promptbias.compile import main as compile_run
from promptbias.engine import run_folder
from promptbias.experiments.runs import DIVERGED, Run
from promptbias.utils.errors import UserError


@pytest.mark.parametrize(
    "key",
    ["TRAINER.NAME", "MODEL.BACKBONE.NAME", "DATASET.NAME", "COMPILE.START", "TRAINER.BIASTUNING.SITES", "RESUME"],
)
def test_what_a_compilation_takes_from_its_run_stays(runs, tmp_path, key):
    with pytest.raises(UserError, match=f"^{key} is not for KEY VALUE pairs"):
        compile_run([runs["deep"], "--output-dir", str(tmp_path / "out"), "--extra", key, "x"])
    assert not (tmp_path / "out").exists()


def test_a_run_whose_classes_are_not_those_of_its_dataset_is_not_compiled(runs, tmp_path):
    run = shutil.copytree(runs["deep"], tmp_path / "run")
    results = run_folder.read_results(str(run))
    run_folder.write_results({**results, "classnames": results["classnames"][::-1]}, str(run))
    with pytest.raises(UserError, match="was tested on other classes than its dataset has now"):
        compile_run([str(run), "--output-dir", str(tmp_path / "out")])


def test_a_seed_too_large_and_no_folder_are_one_sentence(runs, tmp_path):
    with pytest.raises(UserError, match="below 2"):
        compile_run([runs["deep"], "--output-dir", str(tmp_path / "out"), "--extra", "SEED", str(2**33)])
    with pytest.raises(UserError, match="--output-dir is empty"):
        compile_run([runs["deep"], "--output-dir", ""])


def test_pipes_do_not_stop_a_run_for_ever(tmp_path):
    os.mkfifo(tmp_path / run_folder.LOCK)
    with pytest.raises(UserError, match="not a regular file but a named pipe"), run_folder.locked(str(tmp_path)):
        pass
    os.mkfifo(tmp_path / DIVERGED)
    with pytest.raises(UserError, match="not a regular file but a named pipe"):
        Run("BiasTuning", "digits", "tiny", str(tmp_path), 1, "data").divergence()


def test_a_figure_that_was_left_out_is_tried_again(runs, tmp_path, monkeypatch):
    tried = []
    left_out = lambda name, *_: tried.append(name) or Section(name, "no masks yet", left_out="no masks")  # noqa: E731
    monkeypatch.setattr(report, "make_section", left_out)
    for _ in range(2):
        flags = ["--output", str(tmp_path), "--samples", "3", "--explore", "0", "--only", "foreground"]
        analysis(["report", "--model-dir", runs["bias"], *flags])
    assert tried == ["foreground"] * 2
