"""Two processes of torchrun on the CPU learn what one does, test every image once, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import two_processes
from conftest import ROOT

from promptbias.engine import distributed
from promptbias.utils.errors import UserError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
TORCHRUN += ["--rdzv_endpoint", "localhost:0"]


@pytest.fixture(scope="module")
def both(weights_file, tmp_path_factory):
    """What two processes wrote."""
    path = tmp_path_factory.mktemp("two") / "learned.pt"
    script = os.path.join(os.path.dirname(__file__), "two_processes.py")
    done = subprocess.run([*TORCHRUN, script, weights_file, path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_every_method_learns_what_one_process_learns(both, weights_file):
    alone = two_processes.train_all(weights_file)
    assert len(alone) > 8 and set(alone) == set(both["learned"])
    for method, parameters in alone.items():
        for name, value in parameters.items():
            torch.testing.assert_close(both["learned"][method][name], value, rtol=0, atol=5e-6, msg=f"{method} {name}")


@pytest.mark.slow
def test_every_test_image_is_read_once_and_in_order(both):
    assert both["shards"] == {count: list(range(count)) for count in range(1, 10)}


def children(process):
    """Ids of the processes that a process started."""
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_when_one_is_killed_all_end_in_one_line_and_the_same_command_resumes(train_py, run, tmp_path):
    folder, state = tmp_path / "run", tmp_path / "run" / "BlockBias" / "training_state.pth"
    command = [*TORCHRUN, *train_py.command("--output-dir", str(folder))[1:]]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while not state.exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(children(process)[0], signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode and not (folder / "results.json").exists()
    assert said.count("the same command resumes from the last finished epoch") == 1, said

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Resuming from") == done.stdout.count("* accuracy: ") == 1
    expected, learned = (torch.load(each / "BlockBias" / "model.pth.tar-2") for each in (run[0], folder))
    for name, value in expected["state_dict"].items():
        torch.testing.assert_close(learned["state_dict"][name], value, rtol=0, atol=1e-5)
    one, two = (json.loads((each / "results.json").read_text()) for each in (run[0], folder))
    assert two["counts"] == one["counts"] and abs(two["accuracy"] - one["accuracy"]) < 0.5
    assert len((folder / "predictions.csv").read_text().splitlines()) == 1 + one["counts"]["test"]


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path, train_py):
    from promptbias.engine import run_folder

    with run_folder.locked(str(tmp_path)):
        done = train_py("--output-dir", str(tmp_path))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"another process trains or tests in {tmp_path}" in done.stderr
    assert os.listdir(tmp_path) == [run_folder.LOCK]


@pytest.mark.parametrize(
    ("named", "there", "seen"),
    [(None, 2, "1"), ("5,3", 2, "3"), ("-1", 0, "-1"), ("0", 0, "0"), ("", 0, ""), (None, 0, None)],
)
def test_each_process_sees_its_own_gpu_and_without_any_all_train_on_the_cpu(monkeypatch, named, there, seen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named or "")
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    distributed.choose_device()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(UserError, match="which has 1 GPUs; use --nproc_per_node 1"):
        distributed.choose_device()
