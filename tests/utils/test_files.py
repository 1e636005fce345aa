"""Files: atomic writes, checksums, TorchScript archives."""

import contextlib
import glob
import hashlib
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptbias.utils.errors import UserError
from promptbias.utils.files import (
    atomic_write,
    checksum,
    is_torchscript,
    partial_folder,
    regular_file,
    remove_partial_files,
)
from promptbias.utils.tensor_files import save_tensors


@pytest.mark.parametrize("mode, content", [("w", "grün\n"), ("wb", b"\x00\xff")])
def test_a_file_appears_when_it_is_complete(tmp_path, mode, content):
    path = tmp_path / "new" / "folder" / "file"
    with atomic_write(path, mode) as file:
        file.write(content)
        assert not path.exists()
    assert path.read_bytes() == (content if mode == "wb" else content.encode("utf-8"))
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    for error in (OSError("disk full"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic_write(path) as file:
            file.write("half")
            raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write("x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot write .*choose another output folder"),
        atomic_write(tmp_path / "file" / "below"),
    ):
        pass


@contextlib.contextmanager
def room_for(size):
    """No file may grow beyond `size` bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 60_000))
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, room):
    path = tmp_path / "file"
    for write in (lambda: save_tensors(torch.zeros(12_000), path), lambda: write_lines(path, 8_000)):
        path.write_text("old")
        try:
            with room_for(room):
                write()
        except UserError as error:
            assert (
                str(error)
                == f"cannot write {path} (File too large); free some disk space, or choose another output folder"
            )
            assert path.read_text() == "old"
        else:
            assert 48_000 <= path.stat().st_size <= room
        assert os.listdir(tmp_path) == ["file"]


def write_lines(path, count):
    with atomic_write(path) as file:
        for _ in range(count):
            file.write("a line\n")


def test_a_folder_that_vanishes_is_one_sentence(tmp_path):
    with (
        pytest.raises(UserError, match="cannot write .*run/file .No such file"),
        atomic_write(tmp_path / "run" / "file"),
    ):
        for name in os.listdir(tmp_path / "run"):
            os.remove(tmp_path / "run" / name)
        os.rmdir(tmp_path / "run")


def one_that_writes_beside_one_that_was_killed(code, folder):
    """The living one of two processes that ran `code` until it said that it writes; an empty line lets it go on."""
    killed, living = (
        subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    )
    for process in (killed, living):
        process.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    return living


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {ROOT!r})
from promptbias.utils.files import atomic_write
with atomic_write("BlockBias/model.pth.tar-4") as file:
    print("writing", flush=True)
    input()
"""
    other = one_that_writes_beside_one_that_was_killed(code, tmp_path)
    assert len(os.listdir(tmp_path / "BlockBias")) == 2 and not glob.glob(f"{tmp_path}/BlockBias/model.pth.tar*")
    with atomic_write(tmp_path / "config.yaml") as file:
        remove_partial_files(tmp_path)
        file.write("whole")
    assert len(os.listdir(tmp_path / "BlockBias")) == 1
    other.communicate(b"\n")
    assert other.returncode == 0
    assert (
        os.listdir(tmp_path / "BlockBias") == ["model.pth.tar-4"] and (tmp_path / "config.yaml").read_text() == "whole"
    )


def test_writing_a_file_again_removes_what_a_killed_process_left_of_it(tmp_path):
    for name in (".a.json.x1.partial", ".b.json.x1.partial"):
        (tmp_path / name).write_text("half")
    with atomic_write(tmp_path / "a.json") as file:
        file.write("whole")
    assert sorted(os.listdir(tmp_path)) == [".b.json.x1.partial", "a.json"]


def test_folders_of_killed_processes_are_removed_and_those_of_others_are_not(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {ROOT!r})
from promptbias.utils.files import partial_folder
with partial_folder("images") as folder:
    open(os.path.join(folder, "0.png"), "w").close()
    print("writing", flush=True)
    input()
    os.rename(folder, "images")
"""
    other = one_that_writes_beside_one_that_was_killed(code, tmp_path)
    assert len(os.listdir(tmp_path)) == 2
    with partial_folder(tmp_path / "images") as folder:
        assert len(os.listdir(tmp_path)) == 2 and os.path.basename(folder) in os.listdir(tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    other.communicate(b"\n")
    assert other.returncode == 0 and os.listdir(tmp_path) == ["images"] and os.listdir(tmp_path / "images")


def test_checksums(tmp_path):
    content = b"x" * (3 << 20)
    (tmp_path / "file").write_bytes(content)
    assert checksum(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    assert checksum(tmp_path / "file", "md5") == hashlib.md5(content).hexdigest()


def test_only_files_are_opened(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert regular_file(tmp_path / "file") == str(tmp_path / "file")
    assert regular_file(tmp_path / "link") == str(tmp_path / "link")
    for path, said in ((tmp_path / "pipe", "named pipe"), (tmp_path, "folder"), ("/dev/zero", "device")):
        for function in (regular_file, checksum, is_torchscript):
            with pytest.raises(UserError, match=f"{path} is not a regular file but a {said}"):
                function(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        regular_file(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives_are_told_from_checkpoints(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "program"))
    torch.save({"state_dict": {}}, tmp_path / "checkpoint")
    (tmp_path / "text").write_text("text")
    assert [is_torchscript(tmp_path / name) for name in ("program", "checkpoint", "text")] == [True, False, False]
