"""Archives: members that are unpacked, and archives that are damaged or malicious."""

import os
import random
import shutil
import stat
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import a_tar, a_zip, everything

from promptbias.datasets import archives
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


# ---- sizes


def bomb(path, make, size):
    """An archive of about a thousandth of the `size` of the file in it."""
    if make == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("set/1.jpg", bytes(size))
    elif make == "header":  # a member's header, which tarfile reads into memory, instead of its content
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo("set/1.jpg")
            info.pax_headers = {"comment": " " * size}
            archive.addfile(info)
    else:
        name = {"tar.gz": "set/1.jpg", "skipped": "other/1.jpg"}[make]
        a_tar(path, [("set/0.jpg", b"0"), (name, bytes(size))])
    return str(path)


@pytest.mark.parametrize("make", ["zip", "tar.gz", "skipped", "header"])
def test_what_unpacks_to_many_times_its_size_is_asked_for(tmp_path, monkeypatch, make):
    monkeypatch.setattr(archives, "SLACK", 2**20)
    path = bomb(tmp_path / ("a.zip" if make == "zip" else "a.tar.gz"), make, 8 * 2**20)
    targets = [("set", str(tmp_path / "images"))]
    with pytest.raises(UserError, match="unpacks to more than .* bytes, which images do not; .* add --any-size"):
        unpack(path, targets)
    assert os.listdir(tmp_path) == [os.path.basename(path)]
    unpack(path, targets, any_size=True)
    assert os.listdir(tmp_path / "images")


def test_many_empty_files_count_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SLACK", 0)
    path = a_tar(tmp_path / "a.tar.gz", [(f"set/{i}.jpg", b"") for i in range(300)])
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack(path, [("set", str(tmp_path / "images"))])


def test_a_sparse_file_of_a_tar_is_refused(tmp_path):
    """Its header may promise terabytes of zeros."""
    info = tarfile.TarInfo("set/1.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(UserError, match="is not the expected archive"):
        unpack(a_tar(tmp_path / "a.tar", [(info, b"")], "w"), [("set", str(tmp_path / "images"))])


def test_a_pipe_in_place_of_an_archive(tmp_path):
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(UserError, match="a.zip is not a regular file"):
        unpack(str(tmp_path / "a.zip"), [("set", str(tmp_path / "images"))])


# ---- anything else

NAMES = (
    "set/a/1.jpg",
    "set/a/1.jpg/x",
    "set/a",
    "set",
    "",
    "\0.jpg",
    "./",
    "/",
    "set/a/..",
    "set/../../evil",
    "C:evil",
)
NAMES += (f"set/a/{'n' * 300}", f"set/{'d/' * 2500}x", "set/a/\n", "set//a///2.jpg", "\\evil", "set\\a\\4.jpg", "other")


def test_a_member_without_a_name(tmp_path):
    for name in ("", "\0.jpg"):  # zipfile cuts names at a zero byte
        path = a_zip(tmp_path / "a.zip", [("set/1.jpg", b"1"), (zipfile.ZipInfo(name), b"2")])
        with pytest.raises(UserError, match="a file in it has no name"):
            unpack(path, [("set", str(tmp_path / "images"))])


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_any_archive_is_unpacked_inside_or_refused_in_one_sentence(tmp_path_factory, seed):
    rng, around = random.Random(seed), tmp_path_factory.getbasetemp() / "any_archive"
    shutil.rmtree(around, ignore_errors=True)
    (around / "inside").mkdir(parents=True)
    members = [
        (zipfile.ZipInfo(rng.choice(NAMES)), rng.randbytes(rng.randrange(900))) for _ in range(rng.randrange(1, 6))
    ]
    make = rng.choice(["zip", "tar", "tar.gz"])
    path = around / f"a.{make}"
    if make == "zip":
        a_zip(path, members)
    else:
        a_tar(path, [(info.filename, content) for info, content in members], "w" if make == "tar" else "w:gz")
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([0, 0, 1, 4])):
        where = rng.randrange(len(content))
        content[where : where + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
    path.write_bytes(content)
    try:
        unpack(str(path), [(rng.choice(["set", "set/a"]), str(around / "inside" / "images"))])
        assert os.listdir(around / "inside") == ["images"]
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        assert os.listdir(around / "inside") == []
    assert sorted(os.listdir(around)) == [f"a.{make}", "inside"]
