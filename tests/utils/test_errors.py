"""Errors that a user can cause: hints and what the command line prints."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from promptbias.utils import errors
from promptbias.utils.errors import UserError, cli, nearest, printable, sentence
from promptbias.utils.startup import STOPS, Terminated


@pytest.fixture(autouse=True)
def own_signal_handlers():
    """`cli` is for the end of a process; these tests go on."""
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_hints_for_an_unknown_name():
    assert nearest("EuroSAT", ["eurosat", "dtd"]) == 'did you mean "eurosat"?'
    assert nearest("imagenet", ["eurosat", "dtd"]) == "known: dtd, eurosat"
    assert nearest("imagenet", ["eurosat", "dtd"], ["a few"]) == "known: a few"
    assert nearest("imagenet", []) == "known: none"


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("error", [UserError("no such dataset; use another"), OSError("no such dataset; use another")])
def test_what_a_user_can_fix_is_one_line(error, capsys):
    with pytest.raises(SystemExit) as exit:
        cli(failing(error))
    assert exit.value.code == 1 and capsys.readouterr().err == "error: no such dataset; use another\n"


@pytest.mark.parametrize("in_checkout, command", [(True, "pip install -e ."), (False, "pip install promptbias")])
def test_a_missing_package_says_how_to_install_it(capsys, monkeypatch, in_checkout, command):
    monkeypatch.setattr(errors, "IN_CHECKOUT", in_checkout)
    with pytest.raises(SystemExit) as exit:
        cli(lambda: __import__("a_module_that_nobody_has"))
    assert exit.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: a_module_that_nobody_has is not installed; run `{command}`")


def test_an_interrupt_says_what_it_has_to_say(capsys):
    for kind, status, word in ((KeyboardInterrupt, 130, "interrupted"), (Terminated, 143, "terminated")):
        for message, printed in (("", f"{word}\n"), ("run it again to resume", "run it again to resume\n")):
            with pytest.raises(SystemExit) as exit:
                cli(failing(kind(message)))
            assert exit.value.code == status and capsys.readouterr().err == printed


def test_the_status_is_that_of_the_command():
    for status in (None, 0, 3):
        with pytest.raises(SystemExit) as exit:
            cli(lambda status=status: status)
        assert exit.value.code == status
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        cli(failing(ZeroDivisionError()))


@pytest.mark.parametrize(
    "error, said",
    [
        (MemoryError(), "memory ran out"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            "memory ran out",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore"), "memory ran out"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "too little memory to load PyTorch"),
        (RuntimeError("can't start new thread"), "OMP_NUM_THREADS=1"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no further thread or process"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "lower DATALOADER.NUM_WORKERS"),
        (RuntimeError("It is possible that dataloader's workers are out of shared memory."), "/dev/shm"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: the disk is full (No space left on device)"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied"),
        (PermissionError(errno.EACCES, "Permission denied", b"a/b"), "error: a/b: Permission denied"),
    ],
)
def test_what_has_run_out_is_said_in_one_line(error, said, capsys):
    with pytest.raises(SystemExit) as exit:
        cli(failing(error))
    printed = capsys.readouterr().err
    assert exit.value.code == 1 and said in printed and printed.startswith("error: ") and printed.count("\n") == 1


@settings(deadline=None)
@given(st.sampled_from([RuntimeError, ValueError, KeyError, ImportError]), st.text())
def test_an_error_of_unknown_cause_is_no_sentence(kind, text):
    assert sentence(kind(text)) == ""


@settings(deadline=None)
@given(st.text())
def test_a_message_is_one_line_whatever_a_file_is_called(text):
    shown = printable(text)
    assert shown.isprintable() and (shown == text if text.isprintable() else len(shown) > len(text))


def command(code, **options):
    """A command whose main is `code`, as a process."""
    code = f"import sys\nfrom promptbias.utils.errors import cli\ndef main():\n    {code}\ncli(main)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)


def test_a_reader_that_has_seen_enough_ends_a_command_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    done = command("print('x' * 100_000)", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = command("print('x')", stdout=full)
    assert done.returncode == 1 and "the disk is full" in done.stderr and done.stderr.count("\n") == 1


def test_a_closed_output_or_one_without_the_letters_is_no_error():
    assert command("print('x')", preexec_fn=lambda: os.close(1)).returncode == 0
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = command("print('Z\\u00e9ro')", stdout=subprocess.PIPE, env=env)
    assert (done.returncode, done.stdout) == (0, "Z\\xe9ro\n")


def test_too_small_a_limit_of_memory_is_one_line():
    resource = pytest.importorskip("resource")
    limit = (400 << 20, 400 << 20)
    done = command("import torch", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit))
    assert done.returncode == 1 and "raise the limit" in done.stderr and done.stderr.count("\n") == 1
