"""The paper's tables: cells, published numbers, folders, and what is written."""

import csv
import io
import json
import os
import statistics
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, THREE_BLOCKS
from forked import forked
from miniatures import MINIATURES

from promptbias.analysis import table
from promptbias.analysis.__main__ import main
from promptbias.analysis.commands import make_parser
from promptbias.experiments.paper import AVERAGE, METHODS, Absent, prompts, published, zero_shot
from promptbias.experiments.runs import DIVERGED, Run
from promptbias.utils.errors import UserError


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_published_numbers_are_where_the_paper_has_them():
    assert published(1)("BIAS", "eurosat") == 86.5 and published(1)("OPTIMAL", AVERAGE) == 80.0
    assert published(2)("3", "dtd") == 65.07 and published(3)("20", "ucf101") == 84.17
    assert published(2)("CLIP", "dtd") == 44.1 and published(2)("CLIP", "digits") is Absent.MISSING
    assert published(3)("40", "eurosat") is Absent.FAILED
    assert published(1)("BIAS", "digits") is published(1)("CLIP-GENERIC", "dtd") is Absent.MISSING


@pytest.mark.parametrize(
    "cell, text",
    [
        (table.Cell([60.0, 62.0], published=60.5), "61.0 ± 1.0 [60.5, +0.5]"),
        (table.Cell([60.0]), "60.0"),
        (table.Cell(published=60.5), "[60.5]"),
        (table.Cell(Absent.FAILED, published=Absent.FAILED), "– [–]"),
        (table.Cell([60.0, 62.0], published=Absent.FAILED), "61.0 ± 1.0 [–]"),
        (table.Cell(), ""),
    ],
)
def test_a_cell(cell, text):
    assert cell.format(1) == text


def test_folders_are_those_of_the_scripts():
    run = prompts(10).run("eurosat", 2, 16, "data", "output")
    assert run.folder == "output/eurosat/IVLP/vit_b16_optimal_16shots/seed2"
    assert zero_shot().run("digits", 1, 16, "data", "output").folder == "output/digits/ZeroshotCLIP/tiny"


def test_no_two_settings_share_a_folder():
    settings = {method("eurosat") for of in METHODS.values() for method in of.values()}
    folders = {setting.run("eurosat", 1, 16, "data", "output").folder for setting in settings}
    assert len(folders) == len(settings) == 2 + 2 + 12 + 6


def test_csv_and_orientation():
    cells = {"eurosat": {"2": table.Cell([60.0, 62.0], published=60.5)}}
    assert list(csv.reader(io.StringIO(table.as_csv(3, cells)))) == [
        ["Prompts", "EuroSAT", "EuroSAT std", "EuroSAT published", "EuroSAT difference"],
        ["2", "61.0000", "1.0000", "60.5000", "0.5000"],
    ]
    assert "$\\pm$" in table.as_latex(3, cells)
    one_seed = table.Cell([60.0], published=60.5)
    assert one_seed.csv_values() == ["60.0000", "", "60.5000", "-0.5000"]  # its standard deviation is not 0


@pytest.fixture
def table_argv(tmp_path, weights_file):
    """table_argv(*argv): arguments of `python -m analysis` for a table of a miniature EuroSAT and a small CLIP."""
    MINIATURES["eurosat"][1](tmp_path / "data")
    extra = [
        "MODEL.BACKBONE.NAME",
        weights_file,
        "INPUT.SIZE",
        "(32, 32)",
        "DATALOADER.NUM_WORKERS",
        "0",
        *THREE_BLOCKS,
    ]

    def make(*argv, options=("OPTIM.MAX_EPOCH", "1")):
        narrowed = ["--methods", "CLIP", "BIAS", "--seeds", "1", "2", "--shots", "1"]
        where = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "output")]
        return ["table", *narrowed, *where, *argv, "--extra", *extra, *options]

    return make


@pytest.fixture
def table_py(table_argv):
    """table_py(*argv): the finished `python -m analysis table ...`."""

    def run(*argv):
        command = [sys.executable, "-m", "analysis", *table_argv(*argv)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return run


@pytest.fixture
def table_here(table_argv, monkeypatch, capsys, tmp_path):
    """table_here(*argv, options=...): what `python -m analysis table ...` prints, with forked runs."""

    def perform(run, threads=None):
        done = forked([os.path.join(ROOT, "train.py"), *run.argv], ROOT, tmp_path)
        return done.stderr.splitlines()[-1].removeprefix("error: ") if done.returncode else ""

    def run(*argv, options=("OPTIM.MAX_EPOCH", "1")):
        monkeypatch.setattr(Run, "perform", perform)
        assert not main(table_argv(*argv, options=options))
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_table_runs_what_is_missing_and_no_more(table_py, tmp_path):
    done = table_py("1", "--datasets", "eurosat", "dtd", "--jobs", "2")
    assert done.returncode == 1 and "dtd is left out: " in done.stdout  # its images are not there
    runs = [tmp_path / "output" / "eurosat" / "BiasTuning" / "vit_b16_1shots" / f"seed{seed}" for seed in (1, 2)]
    accuracies = [json.loads((run / "results.json").read_text())["accuracy"] for run in runs]
    mean, std = statistics.mean(accuracies), statistics.pstdev(accuracies)
    row = f"{mean:.1f} ± {std:.1f} [86.5, {mean - 86.5:+.1f}]"
    assert row in done.stdout
    stem = str(tmp_path / "output" / "tables" / "table1_dtd_eurosat")
    with open(stem + ".md") as file:
        assert row in file.read()
    with open(stem + ".csv") as file:
        line = next(line for line in csv.DictReader(file) if line["Dataset"] == "EuroSAT")
    assert [float(line[key]) for key in ("BIAS", "BIAS std", "BIAS difference")] == pytest.approx(
        [mean, std, mean - 86.5], abs=1e-4
    )
    with open(stem + ".tex") as file:
        assert f"{mean:.1f} $\\pm$ {std:.1f}" in file.read()

    os.remove(runs[1] / "results.json")  # as if it had been stopped while it tested
    before = (runs[0] / "log.txt").read_text()
    done = table_py("1", "--datasets", "eurosat")
    assert done.returncode == 0 and "2 of 3 runs are finished" in done.stdout and row in done.stdout
    assert (runs[0] / "log.txt").read_text() == before
    log = (runs[1] / "log.txt").read_text()  # which is what CoOp's parser reads
    assert "Finish training" in log and len(list(runs[1].glob("log.txt*"))) == 2
    assert "after epoch 1" in log  # it resumed


FAILED_CELL = "– [86.5]"


@pytest.mark.slow
def test_a_failed_training_is_a_dash(table_here, tmp_path):
    diverging = ["OPTIM.MAX_EPOCH", "4", "OPTIM.LR", "1e30"]
    argv = "1", "--datasets", "eurosat", "--methods", "BIAS", "--seeds", "1"
    text = table_here(*argv, options=diverging)
    assert FAILED_CELL in text and "the parameters are unusable" in text
    with open(tmp_path / "output" / "tables" / "table1_eurosat.csv") as file:
        assert next(csv.DictReader(file))["BIAS"] == str(Absent.FAILED)

    folder = tmp_path / "output" / "eurosat" / "BiasTuning" / "vit_b16_1shots" / "seed1"
    before = (folder / "log.txt").read_text()
    text = table_here(*argv, options=diverging)
    assert FAILED_CELL in text and "the parameters are unusable" in text
    assert (folder / "log.txt").read_text() == before  # it was not repeated
    assert f"unless {folder / DIVERGED} is removed" in text
    with pytest.raises(UserError, match="holds a run with another config"):
        table_here(*argv)
    os.remove(folder / DIVERGED)
    text = table_here(*argv, "--dry-run", options=diverging)
    assert "0 of 1 runs are finished" in text and FAILED_CELL not in text


def test_a_dry_run_of_table_2_names_every_run_where_it_is_asked_to(capsys, tmp_path):
    argv = ["table", "2", "--datasets", "digits", "--dry-run", "--output", str(tmp_path / "output")]
    assert not main(argv)
    said = capsys.readouterr().out
    assert "0 of 37 runs are finished" in said and "--verbose" in said and "python -m promptbias" not in said
    assert not main([*argv, "--verbose"])
    said = capsys.readouterr().out
    commands = [line for line in said.splitlines() if line.startswith("python -m promptbias train ")]
    assert len(commands) == len(set(commands)) == 1 + 12 * 3
    assert "PROMPT_DEPTH_VISION 5 TRAINER.IVLP.PROMPT_DEPTH_TEXT 5" in said and not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--datasets", "eurosatt"], 'did you mean "eurosat"?'),
        (["--datasets", "digits", "--methods", "BIASS"], 'did you mean "BIAS"?'),
        (["--datasets", "digits", "--jobs", "0"], "--jobs is 0"),
        (["--datasets", "digits", "--extra", "OPTIM.LR"], "KEY VALUE pairs"),
    ],
)
def test_bad_arguments_end_in_one_sentence(argv, said):
    with pytest.raises(UserError, match=said.replace("?", "[?]")):
        main(["table", "1", *argv])


@pytest.fixture
def finished_run(tmp_path):
    """finished_run(folder, accuracy): the results of a run under tmp_path."""

    def make(folder, accuracy):
        os.makedirs(tmp_path / folder)
        (tmp_path / folder / "results.json").write_text(json.dumps({"accuracy": accuracy, "macro_f1": accuracy}))

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a command saves, which are closed at the end."""
    from promptbias.analysis import figures

    seen = []
    monkeypatch.setattr(figures, "save", lambda result, *where: seen.extend(result.figures.values()) or [])
    yield seen


def test_curves_of_any_trainer_configuration_and_dataset(tmp_path, finished_run, capsys):
    for shots, accuracy in {3: 50.0, 5: 60.0, 8: 70.0}.items():
        finished_run(f"flowers/IVLP/mine_{shots}shots/seed4", accuracy)
    finished_run("flowers/ZeroshotCLIP/vit_b16", 40.0)
    argv = ["curves", "shots", "--datasets", "flowers", "--seeds", "4", "--output", str(tmp_path), "--trainer", "IVLP"]
    main([*argv, "--cfg", "mine", "--numbers", "5", "3"])
    assert "50.0" in capsys.readouterr().out
    numbers = np.load(tmp_path / "curves" / "curves-shots_flowers_IVLP_mine.npz")["flowers IVLP mine"]
    np.testing.assert_array_equal(numbers, [[3, 50, np.nan], [5, 60, np.nan]])  # one seed has no standard deviation
    with pytest.raises(UserError, match="--trainer and --cfg go together"):
        main(argv)
    with pytest.raises(UserError, match="holds no finished run"):
        main([*argv, "--cfg", "other"])


def test_a_panel_without_runs_says_so_and_published_failures_are_marked(tmp_path, finished_run, drawn, recwarn):
    finished_run("dtd/IVLP/vit_b16_2+2prompts_16shots/seed1", 50.0)
    main(["curves", "prompts", "--datasets", "dtd", "digits", "eurosat", "--seeds", "1", "--output", str(tmp_path)])
    with_run, nothing, eurosat = drawn[0].axes[:3]
    assert [[text.get_text() for text in panel.texts] for panel in (with_run, nothing)] == [[], ["no finished run"]]
    marks = {line.get_label(): line.get_xdata().tolist() for line in eurosat.lines}
    failed = [x for x in (2, 4, 6, 8, 20, 40, 100) if published(3)(str(x), "eurosat") is Absent.FAILED]
    assert marks["published: failed"] == failed and 40 in failed
    assert not [warning for warning in recwarn if "legend" in str(warning.message)]


def test_where_runs_and_data_are_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA", "/d")
    monkeypatch.setenv("OUTPUT", "/o")
    args = make_parser().parse_args(["table", "1"])
    assert (args.data, args.output, make_parser().parse_args(["curves", "shots", "--datasets", "dtd"]).output) == (
        "/d",
        "/o",
        "/o",
    )
    for flag in ("--data", "--root"):
        assert make_parser().parse_args(["table", "1", flag, "x"]).data == "x"
    monkeypatch.delenv("DATA")
    assert make_parser().parse_args(["table", "1"]).data == "data"
    monkeypatch.chdir(tmp_path)  # the checkout's, wherever the command is called
    assert make_parser().parse_args(["table", "1"]).data == os.path.join(ROOT, "data")


def test_curves_of_an_unknown_dataset_end_in_one_sentence():
    with pytest.raises(UserError, match='there is no dataset "eurosatt" in the tables: did you mean "eurosat"[?]'):
        main(["curves", "shots", "--datasets", "eurosatt"])


def test_curves_show_what_is_finished(tmp_path, capsys):
    for depth, accuracies in {2: [60.0, 62.0], 12: [70.0, 71.0], 5: [50.0]}.items():
        for seed, accuracy in enumerate(accuracies, 1):
            run = prompts(4, depth).run("eurosat", seed, 16, "data", str(tmp_path))
            os.makedirs(run.folder)
            with open(os.path.join(run.folder, "results.json"), "w") as file:
                json.dump({"accuracy": accuracy, "macro_f1": accuracy}, file)
    argv = ["curves", "depth", "--datasets", "eurosat", "--seeds", "1", "2", "--output", str(tmp_path)]
    main(argv)
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line.startswith("EuroSAT")]
    assert [[cell.strip() for cell in row if cell][2:] for row in rows] == [["2", "61.0 ± 1.0"], ["12", "70.5 ± 0.5"]]
    numbers = np.load(tmp_path / "curves" / "curves-depth.npz")["eurosat 4+4 prompts"]
    assert numbers.tolist() == [[2, 61, 1], [12, 70.5, 0.5]]
    with open(tmp_path / "curves" / "curves-depth.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["value"], row["std"]) for row in rows] == [("61", "1"), ("70.5", "0.5")]
    assert rows[0]["what"] == "EuroSAT, 4+4 prompts, prompt depth (blocks) 2: accuracy in %"
    assert (tmp_path / "curves" / "curves-depth.png").stat().st_size > 5000
    with pytest.raises(UserError, match="holds no finished run"):
        main([*argv[:-1], str(tmp_path / "nothing")])
