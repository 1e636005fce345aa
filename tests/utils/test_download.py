"""Downloads: resumed, checked, fetched once; and what is said when they fail."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock
from local_server import CONTENT, MD5, SHA256, closed_port, serve

from promptbias.utils import download as module
from promptbias.utils.download import download
from promptbias.utils.errors import UserError


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as running:
        yield running


def test_a_file_is_fetched_once(server, tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for _ in range(2):
        download(f"{server.url}/file", str(path), sha256=SHA256, md5=MD5)
    assert path.read_bytes() == CONTENT and len(server.log) == 1
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("name", ["file", "file.part"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(server, tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is not a regular file"):
        download(f"{server.url}/file", str(tmp_path / "file"), sha256=SHA256)


def test_an_interrupted_transfer_resumes(server, tmp_path):
    server.cut = 1_100_000
    download(f"{server.url}/file", str(tmp_path / "file"), md5=MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [asked for _, asked in server.log] == [None, "bytes=1100000-", "bytes=2200000-"]


def test_the_next_call_resumes_too(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:2_000_000])
    download(f"{server.url}/file", str(tmp_path / "file"), md5=MD5)
    assert server.log == [("/file", "bytes=2000000-")] and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", b""])
def test_a_partial_file_that_is_complete_too_long_or_empty(server, tmp_path, part):
    (tmp_path / "file.part").write_bytes(part)
    download(f"{server.url}/file", str(tmp_path / "file"), sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_cannot_resume(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    download(f"{server.url}/file", str(tmp_path / "file"), sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_connection_without_progress_ends_the_download_and_keeps_the_part(server, tmp_path):
    server.cut = 0
    (tmp_path / "file.part").write_bytes(CONTENT[:500])
    with pytest.raises(UserError, match="broke off after 500 of 3,000,000 bytes.*try again to resume"):
        download(f"{server.url}/file", str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file.part"] and len(server.log) == 1


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match="wrong checksum and was deleted"):
        download(f"{server.url}/file", str(tmp_path / "file"), md5="0" * 32)
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(UserError, match="wrong checksum; delete it"):
        download(f"{server.url}/file", str(tmp_path / "file"), sha256=SHA256)
    assert len(server.log) == 1


@pytest.mark.parametrize("where", ["closed port", "no such file", "no such host", "no address"])
def test_a_failed_download_names_the_address_and_the_manual_steps(server, tmp_path, where):
    url = {
        "closed port": f"http://127.0.0.1:{closed_port()}/file",
        "no such file": f"{server.url}/nothing",
        "no such host": "http://host.invalid/file",
        "no address": "nonsense",
    }[where]
    with pytest.raises(UserError) as error:
        download(url, str(tmp_path / "file"))
    assert url in str(error.value) and f"put it at {tmp_path / 'file'}" in str(error.value)
    assert os.listdir(tmp_path) == [] and "\n" not in str(error.value)


def test_two_processes_fetch_a_file_once(server, tmp_path):
    code = "import sys; from promptbias.utils.download import download; download(*sys.argv[1:])"
    argv = [sys.executable, "-c", code, f"{server.url}/file", str(tmp_path / "file"), SHA256]
    running = [subprocess.Popen(argv, cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert (tmp_path / "file").read_bytes() == CONTENT and len(server.log) == 1


def test_the_lock_is_waited_for_and_removed(server, tmp_path):
    """The lock of another process delays the download of the same file, and of no other."""
    path = tmp_path / "file"
    with ThreadPoolExecutor() as pool, FileLock(f"{path}.lock") as lock:
        download(f"{server.url}/file", str(tmp_path / "other"))
        waiting = pool.submit(download, f"{server.url}/file", str(path), sha256=SHA256)
        time.sleep(0.3)
        assert not waiting.done() and len(server.log) == 1
        lock.release()
        waiting.result(timeout=30)
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


def test_an_existing_file_needs_no_lock(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    with FileLock(tmp_path / "file.lock"):
        download("nonsense", str(tmp_path / "file"), sha256=SHA256)


def test_a_full_disk(server, tmp_path):
    """A limit on the size of files stands for the end of the disk: writing fails in the middle of the transfer."""
    code = (
        "import resource, sys\n"
        "from promptbias.utils.errors import cli\n"
        "from promptbias.utils.download import download\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "cli(lambda: download(*sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", code, f"{server.url}/file", str(tmp_path / "file"), SHA256]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "error: cannot write" in run.stderr and "free some disk space" in run.stderr
    assert "Traceback" not in run.stderr and os.listdir(tmp_path) == ["file.part"]
    download(f"{server.url}/file", str(tmp_path / "file"), SHA256)  # it resumes once there is space
    assert server.log[-1] == ("/file", "bytes=2000000-")


def test_a_file_larger_than_the_disk_is_not_started(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(UserError, match="no disk space"):
        download(f"{server.url}/file", str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_created(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        download(f"{server.url}/file", str(tmp_path / "file" / "below" / "file"))


def test_google_drive_goes_through_gdown(tmp_path, monkeypatch):
    gdown = pytest.importorskip("gdown")
    url = "https://drive.google.com/uc?id=abc"

    def give(asked, output, resume):
        assert asked == url and resume
        Path(output).write_bytes(CONTENT)

    monkeypatch.setattr(gdown, "download", give)
    download(url, str(tmp_path / "file"), md5=MD5)
    assert os.listdir(tmp_path) == ["file"]
    for failure in (RuntimeError("too many\nusers"), ConnectionError("nested"), None):

        def fail(*_, failure=failure, **__):
            if failure:
                raise failure

        monkeypatch.setattr(gdown, "download", fail)
        with pytest.raises(UserError, match=re.escape(url)):
            download(url, str(tmp_path / "other"))
