"""The command that downloads datasets, against a local server."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from local_server import serve
from miniatures import eurosat, image
from packing import a_tar, a_zip, everything

from promptbias import datasets
from promptbias.datasets import prepare
from promptbias.datasets.fetches import Fetch, Source
from promptbias.datasets.sources import SOURCES
from promptbias.utils.errors import UserError


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as running:
        yield running


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


def command(*argv):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        prepare.main([str(arg) for arg in argv])
    return out.getvalue()


def test_prepare_fetches_unpacks_and_counts(small_eurosat, server):
    out = command("eurosat", "--root", small_eurosat)
    assert "20 training images" in out and "14 test images" in out
    assert sorted(os.listdir(small_eurosat / "eurosat")) == ["2750", "split_zhou_EuroSAT.json"]
    requests = len(server.log)
    before = everything(small_eurosat)
    assert "exists" in command("eurosat", "--root", small_eurosat, "--check")
    command("eurosat", "--root", small_eurosat)
    assert len(server.log) == requests and everything(small_eurosat) == before
    line = next(line for line in command("--list", "--root", small_eurosat).splitlines() if line.startswith("eurosat"))
    assert "complete" in line


def test_a_nested_archive(small_eurosat, server, tmp_path):
    outer = a_zip(tmp_path / "outer.zip", [("eurosat/EuroSAT.zip", (tmp_path / "EuroSAT.zip").read_bytes())])
    server.files["/outer.zip"] = Path(outer).read_bytes()
    entry = SOURCES["eurosat"]
    nested = entry.fetches[0]._replace(
        url=f"{server.url}/outer.zip", file="eurosat/outer.zip", md5="", inside="eurosat/EuroSAT.zip"
    )
    SOURCES["eurosat"] = entry._replace(fetches=(nested, entry.fetches[1]))
    command("eurosat", "--root", small_eurosat)
    assert sorted(os.listdir(small_eurosat / "eurosat")) == ["2750", "split_zhou_EuroSAT.json"]


def test_one_failed_download_does_not_stop_the_others(small_eurosat, server):
    del server.files["/EuroSAT.zip"]
    with pytest.raises(UserError, match="lacks .*2750: cannot fetch .*EuroSAT.zip"):
        command("eurosat", "--root", small_eurosat)
    assert os.listdir(small_eurosat / "eurosat") == ["split_zhou_EuroSAT.json"]
    assert "partial" in command("--list", "--root", small_eurosat)


def test_check_counts_and_writes_nothing(small_eurosat, server):
    with pytest.raises(UserError, match="python -m datasets.prepare eurosat --root"):
        command("eurosat", "--root", small_eurosat, "--check")
    assert os.listdir(small_eurosat) == [] and server.log == []
    command("eurosat", "--root", small_eurosat)
    SOURCES["eurosat"] = SOURCES["eurosat"]._replace(counts=(20, 5, 99))
    with pytest.raises(UserError, match="14 test images .* but the benchmark has 99"):
        command("eurosat", "--root", small_eurosat, "--check")
    image(small_eurosat / "eurosat" / "2750" / "Forest" / "Forest_99.jpg")
    next((small_eurosat / "eurosat" / "2750" / "Forest").glob("Forest_5.jpg")).unlink()
    with pytest.raises(UserError, match="Forest_5.jpg"):
        command("eurosat", "--root", small_eurosat, "--check")


def test_a_missing_split_is_drawn(small_eurosat, server):
    command("eurosat", "--root", small_eurosat)
    (small_eurosat / "eurosat" / "split_zhou_EuroSAT.json").unlink()
    entry = SOURCES["eurosat"]
    SOURCES["eurosat"] = entry._replace(counts=prepare.count(entry, str(small_eurosat)))
    assert "which is not CoOp's" in command("eurosat", "--root", small_eurosat, "--check")
    assert os.listdir(small_eurosat / "eurosat") == ["2750"]
    del server.files["/split.json"]
    with pytest.raises(UserError, match="lacks .*split_zhou_EuroSAT.json: cannot fetch"):
        command("eurosat", "--root", small_eurosat)


def test_coops_split_replaces_one_that_was_drawn_here(small_eurosat, server):
    command("eurosat", "--root", small_eurosat)
    split = small_eurosat / "eurosat" / "split_zhou_EuroSAT.json"
    coops = split.read_text()
    drawn = json.dumps({"drawn_by": "promptbias", **json.loads(coops)})
    split.write_text(drawn)
    assert "which is not CoOp's" in command("eurosat", "--root", small_eurosat, "--check")
    given = server.files.pop("/split.json")
    with pytest.raises(UserError, match="cannot fetch"):
        command("eurosat", "--root", small_eurosat)
    assert split.read_text() == drawn
    server.files["/split.json"] = given
    command("eurosat", "--root", small_eurosat)
    assert split.read_text() == coops


def test_an_archive_that_the_user_provides_is_kept(small_eurosat, server, tmp_path):
    (small_eurosat / "eurosat").mkdir()
    shutil.copy(tmp_path / "EuroSAT.zip", small_eurosat / "eurosat")
    command("eurosat", "--root", small_eurosat)
    assert sorted(os.listdir(small_eurosat / "eurosat")) == ["2750", "EuroSAT.zip", "split_zhou_EuroSAT.json"]


def test_an_archive_without_an_address_is_used_once_the_user_provides_it(small_eurosat, server, tmp_path):
    entry = SOURCES["eurosat"]
    fetches = (entry.fetches[0]._replace(url=""), entry.fetches[1])
    SOURCES["eurosat"] = entry._replace(fetches=fetches, manual_steps="ask Bob")
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


def test_an_unknown_name(tmp_path):
    with pytest.raises(UserError, match='did you mean "eurosat"'):
        command("eurosta", "--root", tmp_path)


def test_the_list_needs_no_torch():
    code = "import sys; from datasets.prepare import main; main(['--list']); assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name in SOURCES:
        assert name in run.stdout


def test_every_source_is_complete():
    for source in SOURCES.values():
        assert isinstance(source, Source) and all(isinstance(field, (str, tuple)) for field in source)
        assert all(fetch.url.startswith(("http://", "https://")) for fetch in source.fetches if fetch.url)
        for fetch in source.fetches:
            assert fetch.file.startswith(source.folder + "/")
            assert not fetch.md5 or re.fullmatch("[0-9a-f]{32}", fetch.md5)
            assert all(result.startswith(source.folder + "/") for result in fetch.results())


# ---- another package called `datasets`

HUGGING_FACE_FIRST = """
import sys, types
theirs = sys.modules["datasets"] = types.ModuleType("datasets")  # Hugging Face's, imported before ours
from promptbias.engine.discovery import register_all
register_all()
from promptbias.datasets import prepare
from dassl.data.datasets import DATASET_REGISTRY
assert sys.modules["datasets"] is theirs and "Digits" in DATASET_REGISTRY.registered_names()
prepare.main(["--list"])
"""


@pytest.mark.slow
def test_another_package_of_the_same_name_may_have_come_first():
    done = subprocess.run([sys.executable, "-c", HUGGING_FACE_FIRST], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "oxford_pets" in done.stdout, done.stderr


def test_who_gets_ours_in_place_of_hugging_faces_is_told():
    assert not hasattr(datasets, "load_dataset")
    with pytest.raises(AttributeError, match="has no load_dataset: where Hugging Face's package `datasets` is meant"):
        datasets.load_dataset  # noqa: B018
