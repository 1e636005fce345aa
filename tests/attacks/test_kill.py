"""Runs that are killed at random moments end as the undisturbed one."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
import torch
from attack_tally import few_or_many
from conftest import ROOT

EPOCHS = "8"
KILLS_PER_RUN = 6


@pytest.fixture(scope="module")
def undisturbed(train_py, tmp_path_factory):
    """The folder of a run that nothing happened to, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    begin = time.monotonic()
    subprocess.run(train_py.command("--output-dir", str(folder), "OPTIM.MAX_EPOCH", EPOCHS), cwd=ROOT, check=True)
    return folder, time.monotonic() - begin


def learned(folder):
    return torch.load(folder / "BlockBias" / f"model.pth.tar-{EPOCHS}", weights_only=True)["state_dict"]


def without_times(folder):
    """What a run measured, without its times and the checksum, which covers them."""
    results = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in results.items() if key not in ("seconds", "sha256")}


@pytest.mark.slow
@few_or_many(2, 60)
def test_killed_runs_end_as_undisturbed_ones(undisturbed, train_py, tmp_path, tally, attempts):
    expected, seconds = undisturbed
    moments, kills, runs = random.Random(attempts), 0, 0
    while kills < attempts:
        folder, runs = tmp_path / str(runs), runs + 1
        words = "--output-dir", str(folder), "--resume", str(folder), "OPTIM.MAX_EPOCH", EPOCHS
        for _ in range(min(KILLS_PER_RUN, attempts - kills)):
            process = subprocess.Popen(
                train_py.command(*words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(moments.uniform(0, seconds))
            process.send_signal(signal.SIGKILL)
            tally("finished before the kill" if process.wait() == 0 else "killed")
            kills += 1
        done = train_py(*words)
        assert done.returncode == 0, done.stderr
        for key, value in learned(expected).items():
            assert torch.equal(value, learned(folder)[key])
        assert without_times(folder) == without_times(expected)
        assert left_over(folder) == left_over(expected)
        tally("run ended bit-identical")


def left_over(folder):
    """The names of a run's files, apart from logs, of which each start leaves one."""
    return sorted(
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
        if "log.txt" not in name and "tfevents" not in name
    )
