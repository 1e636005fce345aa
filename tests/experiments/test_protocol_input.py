"""What the command line and the environment of an experiment may say; nothing is run."""

import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptbias.experiments import protocols
from promptbias.experiments.runs import Run
from promptbias.utils.errors import UserError

MAIN = ("BiasTuning", "main", "digits", "16")


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The runs that an experiment would have performed."""
    performed = []
    monkeypatch.setattr(Run, "perform_in_foreground", lambda run: performed.append(run) or 7)
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    return performed


@pytest.mark.parametrize(
    "environment, words, said",
    [
        ({"SEEDS": "1 x"}, MAIN, 'SEEDS is "1 x", but must be whole numbers'),
        ({"SEEDS": "-1"}, MAIN, "SEEDS"),
        ({"SEEDS": "4294967296"}, MAIN, r"below 2\*\*32"),
        ({"SEEDS": 5000 * "9"}, MAIN, "SEEDS"),
        ({"SEEDS": "\u0663"}, MAIN, "SEEDS"),
        ({"DATA": __file__}, MAIN, "DATA is .*, but must be a folder"),
        ({"OUTPUT": __file__}, MAIN, "OUTPUT is .*, but must be a folder"),
        ({"SHOTS": "1 x"}, ("BiasTuning", "few_shots", "digits"), 'SHOTS is "x"'),
        ({"SOURCE": "../datasets/digits"}, ("BiasTuning", "xd", "16"), "there is no dataset"),
        ({"TARGETS": "digits nothing"}, ("BiasTuning", "xd", "16"), 'there is no dataset "nothing"'),
        ({}, ("BiasTuning", "main", "", "16"), 'there is no dataset ""'),
        ({}, ("BiasTuning", "main", "../datasets/digits", "16"), "there is no dataset"),
        ({}, ("BiasTuning", "main", "digits", 5000 * "9"), "SHOTS"),
        ({}, ("BiasTuning", "main", "digits"), "usage: .* DATASET SHOTS"),
        ({}, (*MAIN, "OPTIM.LR"), "KEY VALUE pairs"),
        ({}, (*MAIN, "OPTIM.LR", "1", "OPTIM.NAME"), "KEY VALUE pairs"),
        ({}, (*MAIN, "--seed", "3"), "--seed is no option of an experiment"),
        ({}, (*MAIN, "OPTIM.LR", "1", "--seed", "3"), "--seed is no option of an experiment"),
        ({}, (*MAIN, "SEED", "3"), "its value comes from SEEDS"),
        ({}, (*MAIN, "tiny", "DATASET.NUM_SHOTS", "3"), "its value comes from SHOTS"),
        ({}, ("BiasTuning", "base2new", "digits", "16", "DATASET.SUBSAMPLE_CLASSES", "all"), "base2new sets"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(runs, monkeypatch, environment, words, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        protocols.main(words)
    assert not runs


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("0123456789 -x.", max_size=12))
def test_seeds_are_whole_numbers_or_refused(monkeypatch, text):
    monkeypatch.setenv("SEEDS", text)
    words = text.split()
    if words and all(word.isdecimal() and str(int(word)) == word and int(word) < 2**32 for word in words):
        assert protocols.read_seeds() == tuple(map(int, words))
    elif text:
        with pytest.raises(UserError, match="SEEDS"):
            protocols.read_seeds()


def test_pairs_reach_the_runs(runs):
    with pytest.raises(SystemExit) as ended:
        protocols.main([*MAIN, "tiny", "INPUT.SIZE", "64"])
    assert ended.value.code == 7 and runs[0].options == ("INPUT.SIZE", "64")  # the baseline's own options come first


PARENT = """
from promptbias.experiments import runs
from promptbias.utils.errors import cli
wait = "print('ready', flush=True) or time.sleep(60)"
runs.PROGRAM = ("-c", f"import time; from promptbias.utils.errors import cli; cli(lambda: {wait})")
cli(lambda: runs.call([]))
"""


def test_a_terminated_experiment_ends_its_run_and_has_its_status():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (143, "terminated\n")
