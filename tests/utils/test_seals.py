"""Damage to files that carry a checksum, and to archives that have only their own."""

import io
import json
import math
import zipfile

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from versions import needs_float8

from promptbias.engine import run_folder
from promptbias.utils import seals
from promptbias.utils.errors import UserError
from promptbias.utils.tensor_files import load_tensors, save_tensors

TENSORS = {"state_dict": {"vision.bias": torch.linspace(-1, 1, 12).view(3, 4)}, "epoch": 4, "about": {"DEPTH": 3}}
RESULTS = {"accuracy": 83.33333333333333, "macro_f1": 81.5, "classnames": ["grün", "red"], "seconds": {"train": 1.5}}
CONFIG = {"OPTIM": {"LR": 0.002}, "TRAINER": {"NAME": "BiasTuning"}}


def write_config(path, content):
    path.write_text(seals.seal_text(seals.TEXT_HEAD + yaml.safe_dump(content)))


def read_config(path):
    return {key: value for key, value in run_folder.read_config(str(path.parent)).items() if key in CONFIG}


def write_json(path, content):
    path.write_text(json.dumps(seals.seal_json(content), indent=2))


def read_json(path):
    return {key: value for key, value in run_folder.read_results(str(path.parent)).items() if key in RESULTS}


def write_pointer(path, name):
    seals.write_pointer(path.parent, name)


# How a file of each kind is written and read, and what is in it.
KINDS = {
    "sealed.pth": (lambda path, data: save_tensors(data, path), load_tensors, TENSORS),
    "foreign.pth": (lambda path, data: torch.save(data, path), load_tensors, TENSORS),
    "config.yaml": (write_config, read_config, CONFIG),
    "results.json": (write_json, read_json, RESULTS),
    "checkpoint": (write_pointer, lambda path: seals.read_pointer(str(path.parent)), "model.pth.tar-10"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def refused_or_same(path, read, expected):
    """Whether a file is refused in one sentence or holds what was written into it."""
    try:
        found = read(path)
    except UserError as error:
        return str(path.parent) in str(error) and "\n" not in str(error)
    return same(expected, found)


@pytest.mark.parametrize("name", KINDS)
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_changed_byte_changes_what_is_read(name, folder, data):
    write, read, content = KINDS[name]
    path = folder / name
    write(path, content)
    whole = path.read_bytes()
    assert same(content, read(path))
    position, change = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(whole[:position] + bytes([whole[position] ^ change]) + whole[position + 1 :])
    assert refused_or_same(path, read, content)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "foreign.pth"])
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_changed_number_is_read_from_a_file_that_keeps_its_checksum(name, folder, data):
    """Any stretch in front of the checksum may be lost, doubled or overwritten."""
    write, read, content = KINDS[name]
    path = folder / name
    write(path, content)
    whole = path.read_bytes()
    seal = max(whole.rfind(mark) for mark in (seals.ZIP_MARK, seals.TEXT_MARK.encode(), b'"sha256"'))
    start = data.draw(st.integers(0, seal - 1))
    end = data.draw(st.integers(start + 1, seal))
    stretch = data.draw(st.sampled_from([b"", whole[start:end] * 2, bytes(end - start), b"\n", b"7"]))
    path.write_bytes(whole[:start] + stretch + whole[end:])
    assert refused_or_same(path, read, content)


@pytest.mark.parametrize("name", KINDS)
@given(st.binary(max_size=200))
@settings(max_examples=30, deadline=None)
def test_anything_else_in_its_place_is_one_sentence(name, folder, content):
    _, read, _ = KINDS[name]
    (folder / name).write_bytes(content)
    try:
        read(folder / name)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert name in ("config.yaml", "checkpoint")  # which are what somebody may have written


def test_other_programs_read_our_files(folder):
    path = folder / "other.pth"
    save_tensors(TENSORS, path)
    assert same(torch.load(path, weights_only=True), TENSORS)
    assert zipfile.ZipFile(path).testzip() is None
    write_pointer(folder / "checkpoint", "model.pth.tar-10")
    assert (folder / "checkpoint").read_text().splitlines()[0] == "model.pth.tar-10"


def test_what_has_no_checksum_is_read_and_said(folder, capsys, monkeypatch):
    monkeypatch.setattr(seals, "_unsealed", [])
    torch.save(TENSORS, folder / "old.pth")
    (folder / "results.json").write_text(json.dumps(RESULTS))
    for _ in range(2):
        assert same(load_tensors(folder / "old.pth"), TENSORS) and read_json(folder / "results.json") == RESULTS
    assert "old.pth has no checksum" in capsys.readouterr().err.removesuffix("\n")


@pytest.mark.parametrize(
    "content", [b"../model.pth.tar-1\n", b"/etc/passwd\n", b"..\n", b"", b"\n", b"\xff\xfe\n", b"a\0b"]
)
def test_a_pointer_to_elsewhere_is_refused(tmp_path, content):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(UserError, match="checkpoint"):
        seals.read_pointer(str(tmp_path))


# Files that would grow


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    path = tmp_path / "bomb"
    torch.save({"state_dict": {"a": torch.zeros(1 << 22)}}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "small", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in stored.infolist():
            packed.writestr(info.filename, stored.read(info))
    with pytest.raises(UserError, match="unpacks to more than its own size"):
        load_tensors(tmp_path / "small")


def pickled(operations):
    """An archive with this pickle, and with a storage of one number."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + operations + b".")
        archive.writestr("archive/data/0", bytes(4))
    return buffer.getvalue()


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%btQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00J%b\x85K\x00\x85\x89N}tR"


@pytest.mark.parametrize(
    "operations",
    [
        b"Nr\xff\xff\xff\x7f",  # a memo of two thousand million entries
        STORAGE % b"J\xff\xff\xff\x7f",  # a storage of as many numbers
        TENSOR.replace(b"%b", b"K\x01", 1).replace(b"%b", b"\xff\xff\xff\x7f"),  # one number seen as many
        b"]("
        + b"N" * 1000
        + b"eq\x000"
        + b"".join(b"cbuiltins\nlist\nh\x00\x85R" for _ in range(999)),  # copies of a list
    ],
)
def test_a_pickle_that_builds_more_than_its_size_is_refused(tmp_path, operations):
    (tmp_path / "bomb").write_bytes(pickled(operations))
    with pytest.raises(UserError, match="is damaged"):
        load_tensors(tmp_path / "bomb")


def test_these_pickles_are_well_formed_but_for_their_sizes(tmp_path):
    sound = TENSOR.replace(b"%b", b"K\x01", 1).replace(b"%b", b"\x01\x00\x00\x00")
    (tmp_path / "sound").write_bytes(pickled(sound))
    assert torch.equal(load_tensors(tmp_path / "sound"), torch.zeros(1))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torch.ones(2, 2).to_sparse(), id="sparse"),
        pytest.param(lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), id="quantised"),
        pytest.param(lambda: torch.ones(2).to(torch.float8_e4m3fn), id="float8", marks=needs_float8),
        pytest.param(lambda: torch.nn.Linear(1, 1), id="module"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_a_plain_tensor_becomes_a_stub(tmp_path, make):
    torch.save({"a": make(), "b": torch.ones(1)}, tmp_path / "file")
    found = load_tensors(tmp_path / "file")
    assert type(found["a"]).__name__ == "Stub" and torch.equal(found["b"], torch.ones(1))


@given(st.floats(width=32), st.floats(width=32))
def test_what_cannot_be_used_is_told(first, second):
    from promptbias.utils.contents import unusable

    found = unusable({"a": torch.tensor([0.0, first]), "n": torch.tensor([7]), "b": torch.tensor([second])}.items())
    usable = [math.isfinite(value) and abs(value) <= 1e17 for value in (first, second)]
    assert found[:1] == ("" if all(usable) else "ab"[usable.index(False)])
