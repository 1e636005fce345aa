"""Many runs at a time: here, on Ray, by Slurm. None is performed twice and none stays half."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import THREE_BLOCKS

from promptbias.engine.run_folder import LOCK
from promptbias.experiments.executors import slurm
from promptbias.experiments.executors.local import Local
from promptbias.experiments.executors.on_ray import OnRay
from promptbias.experiments.paper import bias, zero_shot
from promptbias.experiments.resources import estimate_gib
from promptbias.experiments.runs import Run
from promptbias.experiments.schedule import run_all
from promptbias.utils.errors import UserError


@pytest.fixture
def tiny_runs(data_root, weights_file, tmp_path):
    """tiny_runs(n): runs of a few seconds on Digits with the small CLIP, with seeds 1 to n."""
    small = ("MODEL.BACKBONE.NAME", weights_file, "INPUT.SIZE", "(32, 32)", "OPTIM.MAX_EPOCH", "2", *THREE_BLOCKS)
    where = data_root, str(tmp_path / "output"), small
    return lambda n: [bias().run("digits", seed, 2, *where) for seed in range(1, n + 1)]


def holder(run):
    """The process that trains a run, by the lock on its folder; 0 where there is none."""
    path = Path(run.folder) / LOCK
    inode = path.stat().st_ino if path.exists() else 0
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[5].endswith(f":{inode}"):
            return int(words[4])
    return 0


def kill_one(runs, killed):
    """SIGKILL the Ray worker that is the first to finish an epoch, and note its run."""
    while not killed:
        time.sleep(0.02)
        for run in runs:
            if any(Path(run.folder).glob("*/training_state.pth")) and not killed and holder(run):
                os.kill(holder(run), signal.SIGKILL)
                killed.append(run)


@pytest.mark.attack
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_runs_on_ray_are_finished_once_although_a_worker_is_killed(tiny_runs, monkeypatch):
    pytest.importorskip("ray", reason='the tests on Ray need `pip install "promptbias[ray]"`')
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    runs, done, killed = tiny_runs(3), {}, []
    killer = threading.Thread(target=kill_one, args=(runs, killed), daemon=True)
    killer.start()
    outcome = run_all(runs, done, OnRay(jobs=2))
    killer.join(10)
    assert len(killed) == 1 and not outcome.failed_datasets and not outcome.diverged
    assert set(done) == set(runs) and all(run.results() for run in runs)
    for run in runs:  # each start of a run writes a log
        assert len(list(Path(run.folder).glob("log.txt*"))) == 1 + (run in killed)
    assert not [path for run in runs for path in Path(run.folder).rglob("*.partial")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_cluster_that_is_not_there_and_ray_that_is_not_there_end_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"not installed; `pip install \"promptbias\[ray\]\"`"):
        OnRay(jobs=1).__enter__()


class Fake:
    """An executor that only notes what it was given."""

    def __init__(self, said, room=2):
        self.messages, self.started, self.most, self.running = said, [], 0, 0
        self.room = lambda: room

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def start(self, run):
        self.started.append(run)
        self.running += 1
        self.most = max(self.most, self.running)
        return run

    def first_ended(self, handles):
        self.running -= 1
        return next(iter(handles))

    def said(self, run):
        return self.messages.get(run.dataset, "")


def test_a_dataset_that_fails_is_left_out_and_the_others_are_performed(tmp_path, monkeypatch):
    runs = [Run("IVLP", name, "x", str(tmp_path / f"{name}{seed}"), seed, "d") for name in "abc" for seed in range(5)]
    monkeypatch.setattr(Run, "conclude", conclude)
    executor, done = Fake({"b": "there are no images"}), {}
    outcome = run_all(runs, done, executor)
    assert outcome.failed_datasets == {"b": "there are no images"} and executor.most == 2
    assert {run for run in runs if run.dataset != "b"} == set(done)
    assert sum(run.dataset == "b" for run in executor.started) == 2  # one failed while the other was on its way


def conclude(self, said):
    if said:
        raise UserError(said)
    return {"accuracy": 50.0}


def test_runs_here_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [Local(jobs).threads for jobs in (1, 2, 3, 16)] == [None, 4, 2, 1]


def test_a_slurm_script_performs_the_run_of_its_task(tmp_path):
    out = tmp_path / "o'utput"
    runs = [bias().run("eurosat", seed, 16, "data", str(out), ("INPUT.SIZE", "(32, 32)")) for seed in (1, 2)]
    path = tmp_path / "slurm" / "table1.sh"
    slurm.write_script(runs, str(path), 7)
    text = path.read_text()
    assert "#SBATCH --array=0-1%7\n" in text and f"sbatch {path}" in text
    path.write_text(text.replace(sys.executable, "printf '%s\\n'"))  # print the words in place of running them
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    words = subprocess.run(["bash", path], env=environment, capture_output=True, text=True, check=True).stdout
    assert words.splitlines() == ["-m", "promptbias", "train", *runs[1].argv]
    environment["SLURM_ARRAY_TASK_ID"] = "2"
    assert subprocess.run(["bash", path], env=environment, capture_output=True).returncode == 1


def test_memory_grows_with_batch_and_classes():
    def gib(dataset, *options):
        return estimate_gib(bias().run(dataset, 1, 16, "data", "output", options))

    assert gib("eurosat") < gib("dtd") < gib("imagenet")
    assert gib("eurosat", "DATALOADER.TRAIN_X.BATCH_SIZE", "64") > gib("eurosat") + 2
    assert gib("digits") < 2 and estimate_gib(zero_shot().run("dtd", 1, 16, "data", "output")) < gib("imagenet")
