"""Start-up: imports that are deferred, and signals from the first moment on."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT


def test_unused_parts_of_torchvision_are_executed_only_when_used():
    code = (
        "import sys\n"
        "from promptbias.utils.startup import LazyImports, defer_unused_imports\n"
        "defer_unused_imports(); defer_unused_imports()\n"
        "assert sum(isinstance(finder, LazyImports) for finder in sys.meta_path) == 1\n"
        "import torchvision\n"
        "print('torchvision.models.resnet' in sys.modules)\n"
        "torchvision.models.resnet18\n"
        "print('torchvision.models.resnet' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


# Runs a command in this process and sends it a signal when it imports a certain module.
SEND = """
import os, runpy, signal, sys
number, at, kind, name, sys.argv = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[4:]
class Sender:
    def find_spec(self, module, path, target=None):
        if module == at:
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Sender())
sys.path.insert(0, os.getcwd())
if kind == "file":
    runpy.run_path(name, run_name="__main__")
elif kind == "module":
    runpy.run_module(name, run_name="__main__", alter_sys=True)
else:  # what pip makes of `promptbias.cli:console`
    from promptbias.cli import console
    console()
"""
TRAIN = ["--trainer", "BiasTuning", "--dataset-config-file", "configs/datasets/digits.yaml"]
REPORT = ["report", "--model-dir", "nowhere"]


@pytest.mark.parametrize(
    "number, status, said", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize(
    "at, kind, words",
    [
        ("difflib", "file", ["train.py", *TRAIN]),
        ("argparse", "file", ["train.py", *TRAIN]),
        ("torch", "file", ["train.py", *TRAIN]),
        ("difflib", "module", ["promptbias", "methods"]),
        ("difflib", "entry point", ["promptbias", "train", *TRAIN]),
        ("argparse", "module", ["analysis", *REPORT]),
        ("numpy", "module", ["analysis", *REPORT]),
        ("promptbias.utils.download", "module", ["datasets.prepare", "--list"]),
    ],
)
def test_a_signal_while_modules_are_imported_is_one_line(number, status, said, at, kind, words):
    done = subprocess.run(
        [sys.executable, "-c", SEND, str(int(number)), at, kind, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (status, said + "\n")


WORK = """
import os, signal, sys
from promptbias.utils.errors import cli
def main():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        print("went on")
    finally:
        print("cleaned up", flush=True)
        if sys.argv[2:]:
            os.kill(os.getpid(), int(sys.argv[2]))
            print("went on")
cli(main)
"""


@pytest.mark.parametrize(
    "number, status, said", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("again", [[], [str(int(signal.SIGINT))]])
def test_a_signal_at_work_cleans_up_first_and_a_second_one_does_not_wait(number, status, said, again):
    words = [sys.executable, "-c", WORK, str(int(number)), *again]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    expected = (130, "interrupted\n") if again else (status, said + "\n")
    assert (done.returncode, done.stderr, done.stdout) == (*expected, "cleaned up\n")


ASTRAY = """
import os, signal, sys, time, weakref
from promptbias.utils.errors import cli
def terminate(_=None):
    os.kill(os.getpid(), signal.SIGTERM)
class Loader:
    def __del__(self):
        if sys.argv[1] == "destructor":
            terminate()
def main():
    loader = Loader()
    callback = weakref.ref(loader, terminate) if sys.argv[1] == "callback" else None
    del loader
    time.sleep(9)
    print("went on")
cli(main)
"""


@pytest.mark.parametrize("place", ["destructor", "callback"])
def test_a_signal_where_python_ignores_exceptions_is_not_lost(place):
    done = subprocess.run([sys.executable, "-c", ASTRAY, place], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (143, "terminated\n", "")


def test_a_signal_that_the_caller_ignores_stays_ignored():
    ignored = subprocess.run(
        [sys.executable, "-c", WORK, str(int(signal.SIGINT))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert (ignored.returncode, ignored.stdout) == (0, "went on\ncleaned up\n")


@pytest.mark.slow
def test_a_training_that_is_terminated_says_how_it_goes_on(train_py, tmp_path):
    words = train_py.command(
        "--output-dir", str(tmp_path), "OPTIM.MAX_EPOCH", "9999", "DATALOADER.NUM_WORKERS", "1", "TEST.NO_TEST", "True"
    )
    state = tmp_path / "BlockBias" / "training_state.pth"
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and not state.exists():
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)  # workers too, as batch systems do
        try:
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    last = said.replace("\r", "\n").strip().splitlines()[-1]
    assert (process.returncode, last) == (143, "terminated; the same command resumes from the last finished epoch")
    assert "Traceback" not in said and state.exists() and not (tmp_path / "results.json").exists()
