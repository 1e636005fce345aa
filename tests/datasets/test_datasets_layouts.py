"""The benchmark's fifteen datasets, each in its published layout, in miniature (miniatures.py)."""

import importlib.util
import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from dassl.data.datasets import DATASET_REGISTRY
from loading import config, load, plain
from miniatures import MINIATURES

from promptbias.datasets.sources import SOURCES
from promptbias.utils.errors import UserError
from promptbias.utils.paths import CONFIGS

VARIANTS = {"imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"}


def parts(data):
    return {"train": plain(data.train_x), "val": plain(data.val), "test": plain(data.test)}


@pytest.fixture(params=sorted(MINIATURES))
def miniature(request, tmp_path):
    name, build = MINIATURES[request.param]
    return request.param, name, tmp_path, build(tmp_path)


def test_each_layout_loads(miniature):
    short, name, root, classnames = miniature
    data = load(root, name)
    assert data.classnames == classnames and data.num_classes == len(classnames)
    read = parts(data)
    assert all(read[part] for part in ("train", "test"))
    for impath, label, classname in read["train"] + read["val"] + read["test"]:
        assert impath.startswith(str(root / SOURCES[short].folder)) and os.path.isfile(impath)
        assert classname == classnames[label]
    if short in VARIANTS:
        assert read["train"] == read["test"] and not read["val"]
        assert parts(load(root, name, 1, 1, SUBSAMPLE_CLASSES="base")) == read
        return
    assert (read["val"] == read["test"]) == (short == "imagenet")
    for one, other in (("train", "val"), ("train", "test")):
        assert not {row[0] for row in read[one]} & {row[0] for row in read[other]}
    assert parts(load(root, name, -1, 3)) == read  # from the split file, or the annotation again

    few = load(root, name, 1, 2)
    assert parts(load(root, name, 1, 2)) == parts(few)
    assert Counter(label for _, label, _ in plain(few.train_x)) == dict.fromkeys(range(len(classnames)), 1)
    assert set(plain(few.train_x)) <= set(read["train"]) and plain(few.test) == read["test"]


def test_proportions_of_a_drawn_split(miniature):
    """50/20/30 % of each class, or 80/20 % of its training images if the authors published a test set."""
    short, name, root, _ = miniature
    read = parts(load(root, name))
    count = {part: Counter(label for _, label, _ in rows) for part, rows in read.items()}
    for label in count["train"]:
        train, val, test = (count[part][label] for part in ("train", "val", "test"))
        if short in ("caltech101", "dtd", "eurosat", "food101", "oxford_flowers"):
            assert (train, val) == (round(0.5 * (train + val + test)), round(0.2 * (train + val + test)))
        elif short in ("oxford_pets", "stanford_cars", "sun397", "ucf101"):
            assert val == round(0.2 * (train + val)) and test


def test_each_names_what_is_missing(miniature, tmp_path_factory):
    short, name, root, _ = miniature
    nothing = tmp_path_factory.mktemp("nothing")
    for where in (nothing, root):
        if where == root:  # the images are there, their annotation is not
            for path in (p for p in root.rglob("*") if p.suffix in (".txt", ".mat", ".json")):
                path.unlink()
            if short in ("caltech101", "dtd", "eurosat", "food101"):
                continue  # they need none
        with pytest.raises(UserError, match="does not exist.*datasets.prepare " + short):
            load(where, name)


def test_each_rejects_damaged_annotations(miniature):
    short, name, root, _ = miniature
    damaged = [p for p in root.rglob("*") if p.suffix in (".txt", ".mat", ".json") and p.parent.name != "meta"]
    for path in damaged:
        path.write_text("nothing that / was published\n")
    if damaged:
        with pytest.raises(UserError, match="are not as published|no images|for the 1 classes"):
            load(root, name)


def test_folders_of_the_sources_are_those_of_the_datasets():
    for short, source in SOURCES.items():
        dataset = DATASET_REGISTRY.get(source.dataset)
        assert dataset.dataset_dir == source.folder
        text = Path(CONFIGS, "datasets", short + ".yaml").read_text()
        assert f'NAME: "{source.dataset}"' in text


# ---- against CoOp itself: `COOP=/path/to/CoOp pytest tests/datasets/test_datasets_layouts.py`


@pytest.fixture
def coop(monkeypatch):
    """CoOp's own dataset classes, on file listings that are sorted like ours."""
    folder = Path(os.environ["COOP"], "datasets")
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(listdir(path)))
    monkeypatch.setattr(DATASET_REGISTRY, "register", lambda: lambda dataset: dataset)
    spec = importlib.util.spec_from_file_location("coops_datasets", folder / "__init__.py")
    monkeypatch.setitem(sys.modules, "coops_datasets", importlib.util.module_from_spec(spec))

    def build(short, cfg):
        dataset = getattr(importlib.import_module(f"coops_datasets.{short}"), MINIATURES[short][0])
        random.seed(cfg.SEED)
        return dataset(cfg)

    return build


@pytest.mark.parametrize("shots, seed, subsample", [(-1, 1, "all"), (1, 2, "base"), (2, 3, "new")])
def items_are_coops(miniature, coop, shots, seed, subsample):
    short, name, root, _ = miniature
    if short == "imagenetv2":
        pytest.skip("CoOp's loader wants all 1,000 folders")
    folder = root / SOURCES[short].folder
    if shots != -1:
        load(root, name)  # makes the split file, so that CoOp draws from it
    theirs = parts(coop(short, config(root, name, shots, seed, SUBSAMPLE_CLASSES=subsample)))
    with_their_caches = parts(load(root, name, shots, seed, SUBSAMPLE_CLASSES=subsample))
    shutil.rmtree(folder / "split_fewshot", ignore_errors=True)
    for path in folder.glob("preprocessed.*"):
        path.unlink()
    assert parts(load(root, name, shots, seed, SUBSAMPLE_CLASSES=subsample)) == with_their_caches == theirs
    if shots == -1:
        ours = [json.loads(path.read_text()) for path in folder.glob("split_zhou_*.json")]
        assert ours or short in {"fgvc_aircraft", "imagenet", *VARIANTS}


if "COOP" in os.environ:
    test_items_are_coops = items_are_coops
