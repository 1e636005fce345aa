"""Files: atomic writes, checksums, TorchScript archives."""

import hashlib
import os

import pytest
import torch

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write, checksum, is_torchscript, regular_file


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
            with pytest.raises(UserError, match=f"{path} is a {said}, not a file"):
                function(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        regular_file(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives_are_told_from_checkpoints(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "program"))
    torch.save({"state_dict": {}}, tmp_path / "checkpoint")
    (tmp_path / "text").write_text("text")
    assert [is_torchscript(tmp_path / name) for name in ("program", "checkpoint", "text")] == [True, False, False]
