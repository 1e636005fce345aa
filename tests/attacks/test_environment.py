"""A full disk, too little memory, signals at any moment, a folder that disappears: one sentence, and nothing lost."""

import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from attack_tally import few_or_many
from conftest import ROOT

from promptbias.engine import run_folder


def start(command, limit=None):
    """A command as a process with pipes; `limit` is (resource, value)."""

    def prepare():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which is ignored in what a shell started in the background
        if limit:
            resource.setrlimit(limit[0], (limit[1], limit[1]))

    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=prepare
    )


def sentences(stderr):
    """What is said on stderr apart from progress bars."""
    return [line for line in stderr.splitlines() if line.strip() and "%|" not in line]


def one_sentence(stderr):
    said = sentences(stderr)
    assert len(said) == 1 and said[0].startswith("error: "), stderr
    return said[0]


@pytest.mark.slow
@few_or_many(1, 20)
def test_a_full_disk(run, train_py, tmp_path, tally, attempts):
    """No file can grow beyond a random size: as on a full disk, any write may fail."""
    sizes = random.Random(attempts)
    for attempt in range(attempts):
        folder = tmp_path / str(attempt)
        words = "--output-dir", str(folder), "--resume", str(folder)
        process = start(train_py.command(*words), (resource.RLIMIT_FSIZE, sizes.randrange(12_000)))
        _, stderr = process.communicate()
        if process.returncode == 0:
            tally("had enough room")
            continue
        assert process.returncode == 1 and str(folder) in one_sentence(stderr)
        assert not (folder / "results.json").exists()
        tally("one sentence with the file")
        done = train_py(*words)
        assert done.returncode == 0, done.stderr
        for key, value in learned(run[0]).items():
            assert torch.equal(value, learned(folder)[key])
        tally("with room again: bit-identical")


def learned(folder):
    return torch.load(folder / "BlockBias" / "model.pth.tar-2", weights_only=True)["state_dict"]


@pytest.mark.slow
@few_or_many(1, 20)
def test_too_little_memory(train_py, tmp_path, tally, attempts):
    amounts = random.Random(attempts)
    for attempt in range(attempts):
        command = train_py.command("--output-dir", str(tmp_path / str(attempt)))
        process = start(command, (resource.RLIMIT_AS, amounts.randrange(60, 1200) << 20))
        _, stderr = process.communicate()
        if process.returncode == 0:
            tally("had enough memory")
            continue
        assert process.returncode == 1 and "memory" in one_sentence(stderr), stderr
        tally("one sentence")


@few_or_many(2, 60)
def test_interrupted_at_any_moment(train_py, tmp_path, tally, attempts):
    moments, longest, stopped = random.Random(attempts), 4.0, set()
    if attempts > 2:
        begin = time.monotonic()
        start(train_py.command("--output-dir", str(tmp_path / "undisturbed"))).communicate()
        longest = time.monotonic() - begin
    for attempt in range(attempts):
        stop, status = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[attempt % 2]
        process = start(train_py.command("--output-dir", str(tmp_path / str(attempt))))
        time.sleep(moments.uniform(0.05, longest))
        process.send_signal(stop)
        _, stderr = process.communicate()
        if process.returncode == -stop:  # before the interpreter could do anything about it
            tally("before the first line of Python")
            continue
        if process.returncode == 0:
            tally("finished before")
            continue
        assert process.returncode == status and len(sentences(stderr)) == 1, stderr
        tally(f"one sentence, status {status}")
        stopped.add(status)
    assert attempts <= 2 or stopped == {130, 143}


@pytest.mark.slow
def test_the_output_folder_is_removed_during_training(train_py, tmp_path, tally):
    folder = tmp_path / "run"
    process = start(train_py.command("--output-dir", str(folder), "OPTIM.MAX_EPOCH", "400"))
    while not (folder / "BlockBias" / run_folder.STATE).exists():
        time.sleep(0.02)
        assert process.poll() is None
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    _, stderr = process.communicate()
    assert process.returncode == 1 and str(folder) in one_sentence(stderr)
    tally("one sentence")


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"HOME": "/nowhere"}, {"PYTHONUTF8": "0", "LANG": "C"}])
def test_unusual_environments(environment, tally):
    words = [sys.executable, "-m", "promptbias", "datasets", "--list"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment})
    assert done.returncode == 0 and "oxford_pets" in done.stdout, done.stderr
    tally("works")


def test_a_reader_that_hangs_up():
    """`promptbias datasets --list | head -1`: no traceback."""
    command = f"{sys.executable} -m promptbias datasets --list | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
