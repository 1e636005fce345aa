"""Archives: members that are unpacked, and archives that are damaged or malicious."""

import os
import random
import shutil
import stat
import tarfile
import zipfile

import pytest
from packing import a_tar, a_zip, everything

from promptbias.datasets.archives import unpack
from promptbias.utils.errors import UserError


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
    with pytest.raises(UserError, match="is not the expected archive.*delete it and download it again"):
        unpack(archive, [("set", str(tmp_path / "images"))])
    assert os.listdir(tmp_path) == [path.name]


def test_an_archive_without_the_requested_member(tmp_path):
    with pytest.raises(UserError, match="has no images"):
        unpack(a_tar(tmp_path / "a.tar.gz", [("other/1.jpg", b"1")]), [("images", str(tmp_path / "images"))])


def test_no_room_to_unpack(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    archive = a_tar(tmp_path / "a.tar.gz", [("images/1.jpg", b"1")])
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="No space left on device.*free some disk space"):
        unpack(archive, [("images", str(tmp_path / "images"))])
    assert os.listdir(tmp_path) == ["a.tar.gz"]
