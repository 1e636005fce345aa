"""Fetching datasets: downloads from a local server, archives that mean harm, and the command line."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from promptbias.datasets import prepare
from promptbias.datasets.archives import unpack
from promptbias.datasets.sources import SOURCES, Fetch, Source
from miniatures import eurosat, image
from promptbias.utils import files
from promptbias.utils.errors import UserError
from promptbias.utils.files import download

ROOT = Path(__file__).resolve().parents[1]
CONTENT = random.Random(0).randbytes(3_000_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; with `cut` set, each connection ends after that many bytes, as networks do."""

    files, cut, ranges, log = {}, None, True, []

    def do_GET(self):
        self.log.append((self.path, self.headers.get("Range")))
        if self.path not in self.files:
            return self.send_error(404)
        content = self.files[self.path]
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and self.ranges else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A class whose attributes say what is served, and its address."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (Server,), {"files": {"/file": CONTENT}, "log": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.handle_error = lambda *_: None  # a client that hangs up
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


# ---- download


def test_a_file_is_fetched_once(server, tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for _ in range(2):
        download(f"{server.url}/file", str(path), sha256=SHA256, md5=MD5)
    assert path.read_bytes() == CONTENT and len(server.log) == 1
    assert os.listdir(path.parent) == ["file"]


def test_an_interrupted_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.cut = 1_100_000
    download(f"{server.url}/file", str(tmp_path / "file"), md5=MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [asked for _, asked in server.log] == [None, "bytes=1100000-", "bytes=2200000-"]


def test_the_next_run_goes_on_too(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:2_000_000])
    download(f"{server.url}/file", str(tmp_path / "file"), md5=MD5)
    assert server.log == [("/file", "bytes=2000000-")] and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", b""])
def test_a_part_that_is_complete_too_long_or_empty(server, tmp_path, part):
    (tmp_path / "file.part").write_bytes(part)
    download(f"{server.url}/file", str(tmp_path / "file"), sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_in_the_middle(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    download(f"{server.url}/file", str(tmp_path / "file"), sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_connection_that_brings_nothing_ends_it_and_keeps_the_part(server, tmp_path):
    server.cut = 0
    (tmp_path / "file.part").write_bytes(CONTENT[:500])
    with pytest.raises(UserError, match="broke off after 500 of 3,000,000 bytes.*goes on from there"):
        download(f"{server.url}/file", str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file.part"] and len(server.log) == 1


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match="wrong checksum and was deleted"):
        download(f"{server.url}/file", str(tmp_path / "file"), md5="0" * 32)
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_bytes(b"put there by hand, wrongly")
    with pytest.raises(UserError, match="wrong checksum; delete it"):
        download(f"{server.url}/file", str(tmp_path / "file"), sha256=SHA256)
    assert len(server.log) == 1


@pytest.mark.parametrize("where", ["closed port", "no such file", "no such host", "no address"])
def test_no_network_says_the_address_and_what_to_do_by_hand(server, tmp_path, where):
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
    code = "import sys; from promptbias.utils.files import download; download(*sys.argv[1:])"
    words = [sys.executable, "-c", code, f"{server.url}/file", str(tmp_path / "file"), SHA256]
    running = [subprocess.Popen(words, cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert (tmp_path / "file").read_bytes() == CONTENT and len(server.log) == 1


def test_a_full_disk(server, tmp_path):
    """A limit on the size of files stands for the end of the disk: writing fails in the middle of the transfer."""
    code = (
        "import resource, sys\n"
        "from promptbias.utils.errors import cli\n"
        "from promptbias.utils.files import download\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "cli(lambda: download(*sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, f"{server.url}/file", str(tmp_path / "file"), SHA256]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "error: cannot write" in run.stderr and "make room" in run.stderr
    assert "Traceback" not in run.stderr and os.listdir(tmp_path) == ["file.part"]
    download(f"{server.url}/file", str(tmp_path / "file"), SHA256)  # with room, it goes on
    assert server.log[-1] == ("/file", "bytes=2000000-")


def test_a_file_larger_than_the_disk_is_not_begun(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(UserError, match="no room"):
        download(f"{server.url}/file", str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made(server, tmp_path):
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

        def fail(*_, **__):
            if failure:
                raise failure

        monkeypatch.setattr(gdown, "download", fail)
        with pytest.raises(UserError, match=re.escape(url)):
            download(url, str(tmp_path / "other"))


# ---- archives


def a_tar(path, members, mode="w:gz"):
    """A tar file of (name or TarInfo, content)."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def a_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return str(path)


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.mark.parametrize("make", ["tar.gz", "tar", "zip"])
def test_members_are_unpacked_to_their_places(tmp_path, make):
    members = [("./set/a/1.jpg", b"1"), ("set/b c/2.jpg", b"2"), ("set/list.txt", b"3"), ("settings", b"4")]
    path = tmp_path / f"archive.{make}"
    archive = a_zip(path, members) if make == "zip" else a_tar(path, members, "w:gz" if make == "tar.gz" else "w")
    (tmp_path / "images.unpacking").mkdir()
    (tmp_path / "images.unpacking" / "rest").write_text("of a run that was killed")
    unpack(archive, [("set/a", str(tmp_path / "images")), ("set/list.txt", str(tmp_path / "x" / "lists.txt"))])
    os.remove(archive)
    assert everything(tmp_path) == {"images/1.jpg": b"1", "x/lists.txt": b"3"}


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def device(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.CHRTYPE
    return info


@pytest.mark.parametrize(
    "evil",
    [
        "../evil",
        "set/../../evil",
        "/tmp/evil",
        "set/a/..\\..\\evil",
        "C:/evil",
        link("set/a/link", "/etc/passwd"),
        link("set/a/link", "../../../evil"),
        link("set/a/link", "set/a/1.jpg", tarfile.LNKTYPE),
        device("set/a/device"),
    ],
    ids=lambda evil: evil if isinstance(evil, str) else f"{evil.name} to {evil.linkname}",
)
@pytest.mark.parametrize("make", ["tar", "zip"])
def test_a_malicious_archive_writes_nothing(tmp_path, evil, make):
    inside = tmp_path / "inside" / "root"
    inside.mkdir(parents=True)
    path = tmp_path / "inside" / f"archive.{make}"
    if make == "tar":
        archive = a_tar(path, [("set/a/1.jpg", b"1"), (evil, b""), ("set/a/2.jpg", b"2")], "w")
    elif isinstance(evil, str):
        archive = a_zip(path, [("set/a/1.jpg", b"1"), (evil, b"evil")])
    else:
        info = zipfile.ZipInfo(evil.name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive = a_zip(path, [("set/a/1.jpg", b"1"), (info, b"/etc/passwd")])
    with pytest.raises(UserError, match="leads out of it|is a link or a device"):
        unpack(archive, [("set/a", str(inside / "images"))])
    os.remove(archive)
    assert everything(tmp_path) == {} and not os.path.lexists("/tmp/evil")


@pytest.mark.parametrize("make", ["tar.gz", "tar", "zip"])
@pytest.mark.parametrize("damage", ["cut", "changed", "another file", "empty"])
def test_a_damaged_archive_leaves_nothing(tmp_path, make, damage):
    members = [(f"set/{i}.jpg", random.Random(i).randbytes(20_000)) for i in range(5)]
    path = tmp_path / f"archive.{make}"
    archive = a_zip(path, members) if make == "zip" else a_tar(path, members, "w:gz" if make == "tar.gz" else "w")
    content = bytearray(path.read_bytes())
    if damage == "changed":
        if make == "tar":
            pytest.skip("a plain tar has no checksum of its content")
        content[50_000:50_100] = bytes(100)
    damaged = {"cut": content[:60_000], "changed": content, "another file": b"<html>" * 99, "empty": b""}
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match="not the archive that it should be.*delete it and fetch it again"):
        unpack(archive, [("set", str(tmp_path / "images"))])
    assert os.listdir(tmp_path) == [path.name]


def test_an_archive_without_what_is_looked_for(tmp_path):
    with pytest.raises(UserError, match="has no images"):
        unpack(a_tar(tmp_path / "a.tar.gz", [("other/1.jpg", b"1")]), [("images", str(tmp_path / "images"))])


def test_no_room_to_unpack(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    archive = a_tar(tmp_path / "a.tar.gz", [("images/1.jpg", b"1")])
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="No space left on device.*make room"):
        unpack(archive, [("images", str(tmp_path / "images"))])
    assert os.listdir(tmp_path) == ["a.tar.gz"]


# ---- the command


@pytest.fixture
def small_eurosat(server, tmp_path, monkeypatch):
    """EuroSAT's entry pointing to the local server, with an archive of a miniature; returns the data root."""
    eurosat(tmp_path / "made")
    made = tmp_path / "made" / "eurosat"
    images = [(str(path.relative_to(made)), path.read_bytes()) for path in sorted(made.rglob("*.jpg"))]
    server.files["/EuroSAT.zip"] = Path(a_zip(tmp_path / "EuroSAT.zip", images)).read_bytes()
    rows = [[path.partition("/")[2], i % 3, f"name {i % 3}"] for i, (path, _) in enumerate(images)]
    split = {"train": rows[:20], "val": rows[20:25], "test": rows[25:]}
    server.files["/split.json"] = json.dumps(split).encode()
    fetches = (
        Fetch(
            f"{server.url}/EuroSAT.zip",
            "eurosat/EuroSAT.zip",
            hashlib.md5(server.files["/EuroSAT.zip"]).hexdigest(),
            (("2750", "eurosat/2750"),),
        ),
        Fetch(f"{server.url}/split.json", "eurosat/split_zhou_EuroSAT.json"),
    )
    entry = SOURCES["eurosat"]._replace(fetches=fetches, counts=(20, 5, len(rows) - 25))
    monkeypatch.setitem(SOURCES, "eurosat", entry)
    root = tmp_path / "data"
    root.mkdir()
    return root


def command(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        prepare.main([str(word) for word in words])
    return out.getvalue()


def test_prepare_fetches_unpacks_and_counts(small_eurosat, server):
    out = command("eurosat", "--root", small_eurosat)
    assert "20 training images" in out and "14 test images" in out
    assert sorted(os.listdir(small_eurosat / "eurosat")) == ["2750", "split_zhou_EuroSAT.json"]
    requests = len(server.log)
    before = everything(small_eurosat)
    assert "there" in command("eurosat", "--root", small_eurosat, "--check")
    command("eurosat", "--root", small_eurosat)
    assert len(server.log) == requests and everything(small_eurosat) == before
    line = next(line for line in command("--list", "--root", small_eurosat).splitlines() if line.startswith("eurosat"))
    assert "there" in line


def test_an_archive_in_an_archive(small_eurosat, server, tmp_path):
    outer = a_zip(tmp_path / "outer.zip", [("eurosat/EuroSAT.zip", (tmp_path / "EuroSAT.zip").read_bytes())])
    server.files["/outer.zip"] = Path(outer).read_bytes()
    entry = SOURCES["eurosat"]
    nested = entry.fetches[0]._replace(
        url=f"{server.url}/outer.zip", file="eurosat/outer.zip", md5="", inside="eurosat/EuroSAT.zip"
    )
    SOURCES["eurosat"] = entry._replace(fetches=(nested, entry.fetches[1]))
    command("eurosat", "--root", small_eurosat)
    assert sorted(os.listdir(small_eurosat / "eurosat")) == ["2750", "split_zhou_EuroSAT.json"]


def test_what_can_be_fetched_is_fetched_although_something_else_cannot(small_eurosat, server):
    del server.files["/EuroSAT.zip"]
    with pytest.raises(UserError, match="lacks .*2750: cannot fetch .*EuroSAT.zip"):
        command("eurosat", "--root", small_eurosat)
    assert os.listdir(small_eurosat / "eurosat") == ["split_zhou_EuroSAT.json"]
    assert "partly there" in command("--list", "--root", small_eurosat)


def test_check_counts_and_writes_nothing(small_eurosat, server):
    with pytest.raises(UserError, match="python -m datasets.prepare eurosat --root"):
        command("eurosat", "--root", small_eurosat, "--check")
    assert os.listdir(small_eurosat) == [] and server.log == []
    command("eurosat", "--root", small_eurosat)
    SOURCES["eurosat"] = SOURCES["eurosat"]._replace(counts=(20, 5, 99))
    with pytest.raises(UserError, match="14 test images .* where the benchmark has 99"):
        command("eurosat", "--root", small_eurosat, "--check")
    image(small_eurosat / "eurosat" / "2750" / "Forest" / "Forest_99.jpg")
    next((small_eurosat / "eurosat" / "2750" / "Forest").glob("Forest_5.jpg")).unlink()
    with pytest.raises(UserError, match="Forest_5.jpg"):
        command("eurosat", "--root", small_eurosat, "--check")


def test_a_split_that_is_not_there_is_drawn(small_eurosat, server):
    command("eurosat", "--root", small_eurosat)
    (small_eurosat / "eurosat" / "split_zhou_EuroSAT.json").unlink()
    entry = SOURCES["eurosat"]
    SOURCES["eurosat"] = entry._replace(counts=prepare.count(entry, str(small_eurosat)))
    assert "it is not CoOp's" in command("eurosat", "--root", small_eurosat, "--check")
    assert os.listdir(small_eurosat / "eurosat") == ["2750"]
    del server.files["/split.json"]
    with pytest.raises(UserError, match="lacks .*split_zhou_EuroSAT.json: cannot fetch"):
        command("eurosat", "--root", small_eurosat)


def test_a_split_that_was_drawn_here_gives_way_to_coops(small_eurosat, server):
    command("eurosat", "--root", small_eurosat)
    split = small_eurosat / "eurosat" / "split_zhou_EuroSAT.json"
    coops = split.read_text()
    drawn = json.dumps({"drawn_by": "promptbias", **json.loads(coops)})
    split.write_text(drawn)
    assert "it is not CoOp's" in command("eurosat", "--root", small_eurosat, "--check")
    given = server.files.pop("/split.json")
    with pytest.raises(UserError, match="cannot fetch"):
        command("eurosat", "--root", small_eurosat)
    assert split.read_text() == drawn
    server.files["/split.json"] = given
    command("eurosat", "--root", small_eurosat)
    assert split.read_text() == coops


def test_an_archive_that_somebody_brought_is_kept_though_it_has_an_address(small_eurosat, server, tmp_path):
    (small_eurosat / "eurosat").mkdir()
    shutil.copy(tmp_path / "EuroSAT.zip", small_eurosat / "eurosat")
    command("eurosat", "--root", small_eurosat)
    assert sorted(os.listdir(small_eurosat / "eurosat")) == ["2750", "EuroSAT.zip", "split_zhou_EuroSAT.json"]


def test_an_archive_put_there_by_hand_is_used_and_kept(small_eurosat, server, tmp_path):
    entry = SOURCES["eurosat"]
    fetches = (entry.fetches[0]._replace(url=""), entry.fetches[1])
    SOURCES["eurosat"] = entry._replace(fetches=fetches, by_hand="ask Bob")
    with pytest.raises(UserError, match="ask Bob"):
        command("eurosat", "--root", small_eurosat)
    shutil.copy(tmp_path / "EuroSAT.zip", small_eurosat / "eurosat")
    command("eurosat", "--root", small_eurosat)
    assert "EuroSAT.zip" in os.listdir(small_eurosat / "eurosat")


def test_digits_are_prepared_by_the_same_command(tmp_path):
    with pytest.raises(UserError, match="digits lacks"):
        command("digits", "--root", tmp_path, "--check")
    assert os.listdir(tmp_path) == []
    assert "898 training images" in command("digits", "--root", tmp_path)


def test_imagenet_is_unpacked_from_the_official_archives(tmp_path, monkeypatch):
    official = pytest.importorskip("torchvision.datasets.imagenet")
    import numpy as np
    from scipy.io import savemat

    folder = tmp_path / "imagenet"
    wordnet = ["n01440764", "n01443537"]
    os.makedirs(folder)
    synsets = np.zeros((3, 1), [(key, object) for key in ("ID", "WNID", "words", "gloss", "num_children")])
    for i, name in enumerate((*wordnet, "n00001740")):
        synsets[i, 0] = (i + 1, name, "words", "gloss", 2 if i == 2 else 0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    data = "ILSVRC2012_devkit_t12/data"
    devkit = [(f"{data}/meta.mat", meta.getvalue()), (f"{data}/ILSVRC2012_validation_ground_truth.txt", b"2\n1\n")]
    a_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", devkit)
    inner = [Path(a_tar(tmp_path / name, [(f"{name}_1.JPEG", b"1")], "w")).read_bytes() for name in wordnet]
    a_tar(folder / "ILSVRC2012_img_train.tar", [(f"{name}.tar", tar) for name, tar in zip(wordnet, inner)], "w")
    a_tar(folder / "ILSVRC2012_img_val.tar", [(f"ILSVRC2012_val_0000000{i}.JPEG", b"v") for i in (1, 2)], "w")
    with pytest.raises(UserError, match="ILSVRC2012_img_train.tar"):  # the checksums are not the official ones
        prepare.unpack_imagenet(str(folder / "images" / "train"))
    for kind, (name, _) in list(official.ARCHIVE_META.items()):
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setitem(official.ARCHIVE_META, kind, (name, md5))
    for part in ("train", "val"):
        prepare.unpack_imagenet(str(folder / "images" / part))
    assert sorted(everything(folder / "images")) == [
        "train/n01440764/n01440764_1.JPEG",
        "train/n01443537/n01443537_1.JPEG",
        "val/n01440764/ILSVRC2012_val_00000002.JPEG",
        "val/n01443537/ILSVRC2012_val_00000001.JPEG",
    ]


def test_a_name_that_is_not_known(tmp_path):
    with pytest.raises(UserError, match='did you mean "eurosat"'):
        command("eurosta", "--root", tmp_path)


def test_the_list_needs_no_torch():
    code = "import sys; from datasets.prepare import main; main(['--list']); assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name in SOURCES:
        assert name in run.stdout


def test_every_source_is_complete():
    for name, source in SOURCES.items():
        assert isinstance(source, Source) and all(isinstance(field, (str, tuple)) for field in source)
        assert all(fetch.url.startswith(("http://", "https://")) for fetch in source.fetches if fetch.url)
        for fetch in source.fetches:
            assert fetch.file.startswith(source.folder + "/")
            assert not fetch.md5 or re.fullmatch("[0-9a-f]{32}", fetch.md5)
            assert all(result.startswith(source.folder + "/") for result in fetch.results())
