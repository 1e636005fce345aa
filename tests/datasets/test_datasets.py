"""The shared reader, with EuroSAT's layout in miniature, Digits and a user's own folder."""

import json
import multiprocessing
import os
import pickle
import random
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, Datum, build_dataset

from promptbias import datasets
from promptbias.datasets import reader
from promptbias.datasets.coop_pickle import read_pickle
from promptbias.datasets.digits import write_digits
from promptbias.datasets.image_folder import readable
from promptbias.datasets.sources import SOURCES
from promptbias.datasets.splits import Item, seeded, subsample_classes
from promptbias.utils.errors import UserError

datasets.register_all()
EUROSAT = [
    ("AnnualCrop", "Annual Crop Land"),
    ("Forest", "Forest"),
    ("River", "River"),
    ("SeaLake", "Sea or Lake"),
    ("Residential", "Residential Buildings"),
]


def config(root, name, shots=-1, seed=1, **more):
    cfg = get_cfg_default()
    cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.NUM_SHOTS, cfg.SEED = str(root), name, shots, seed
    for key, value in more.items():
        cfg.DATASET[key] = value
    cfg.VERBOSE = False
    return cfg


def load(root, name, *args, **more):
    return build_dataset(config(root, name, *args, **more))


def plain(data):
    return [(item.impath, item.label, item.classname) for item in data]


def images(folder, count, suffix=".jpg"):
    """`count` small images in a folder, in an order that is not that of their names."""
    os.makedirs(folder, exist_ok=True)
    for number in reversed(range(count)):
        path = os.path.join(folder, f"{os.path.basename(folder)}_{number}{suffix}")
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)


@pytest.fixture
def eurosat(tmp_path):
    for folder, _ in EUROSAT:
        images(tmp_path / "eurosat" / "2750" / folder, 20)
    return tmp_path


def with_split(root, train=8, val=4, test=8):
    """A split file as CoOp writes it, in an order of its own."""
    split = {"train": [], "val": [], "test": []}
    for label, (folder, name) in enumerate(sorted(EUROSAT)):
        numbers = random.Random(label).sample(range(20), 20)
        for part, chosen in zip(split, (numbers[:train], numbers[train : train + val], numbers[-test:])):
            split[part] += [[f"{folder}/{folder}_{n}.jpg", label, name] for n in chosen]
    (root / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(split, indent=4))
    return split


# ---- split files


def test_a_split_file_is_read_as_it_is(eurosat):
    split = with_split(eurosat)
    data = load(eurosat, "EuroSAT")
    for part, read in (("train", data.train_x), ("val", data.val), ("test", data.test)):
        assert plain(read) == [(str(eurosat / "eurosat" / "2750" / path), y, name) for path, y, name in split[part]]
    assert data.classnames == [name for _, name in sorted(EUROSAT)]


def test_without_a_split_file_one_is_drawn_once_the_same_for_every_seed(eurosat, capsys):
    random.seed(7)
    before = random.getstate()
    first = load(eurosat, "EuroSAT", seed=3)
    assert random.getstate() == before
    path = eurosat / "eurosat" / "split_zhou_EuroSAT.json"
    written = path.read_text()
    assert sorted(json.loads(written)) == ["drawn_by", "test", "train", "val"]
    assert "not CoOp's" in capsys.readouterr().err
    assert [len(first.train_x), len(first.val), len(first.test)] == [50, 20, 30]
    assert plain(load(eurosat, "EuroSAT", seed=2).test) == plain(first.test)
    path.unlink()
    load(eurosat, "EuroSAT", seed=2)
    assert path.read_text() == written

    # by hand: classes by name, files by name, one shuffle per class after random.seed(1), 50/20/30 per cent
    rng, expected = random.Random(1), []
    for label, (folder, name) in enumerate(sorted(EUROSAT)):
        files = sorted(os.listdir(eurosat / "eurosat" / "2750" / folder))
        rng.shuffle(files)
        expected += [[f"{folder}/{file}", label, name] for file in files[:10]]
    assert json.loads(written)["train"] == expected


@pytest.mark.parametrize("shots, seed", [(1, 1), (4, 2), (16, 3)])
def test_few_shots_are_drawn_as_coop_on_dassl_draws_them(eurosat, shots, seed):
    split = with_split(eurosat)
    random.seed(seed)
    expected = []
    for part, n in (("train", shots), ("val", min(shots, 4))):
        rows = {}
        for path, label, name in split[part]:
            rows.setdefault(label, []).append((str(eurosat / "eurosat" / "2750" / path), label, name))
        expected.append([r for group in rows.values() for r in (random.sample(group, n) if len(group) >= n else group)])

    random.seed(99)
    state = random.getstate()
    drawn = load(eurosat, "EuroSAT", shots, seed)
    kept = load(eurosat, "EuroSAT", shots, seed)
    assert random.getstate() == state
    assert (eurosat / "eurosat" / "split_fewshot" / f"shot_{shots}-seed_{seed}.json").exists()
    for data in (drawn, kept):
        assert [plain(data.train_x), plain(data.val)] == expected
        assert len(data.test) == 40


def test_the_kept_few_shots_really_are_read_and_follow_the_split(eurosat):
    with_split(eurosat)
    load(eurosat, "EuroSAT", 2)
    path = eurosat / "eurosat" / "split_fewshot" / "shot_2-seed_1.json"
    kept = json.loads(path.read_text())
    kept["train"].reverse()
    path.write_text(json.dumps(kept))
    read = load(eurosat, "EuroSAT", 2).train_x
    assert [d.impath for d in read] == [str(eurosat / "eurosat" / p) for p, *_ in kept["train"]]
    path.write_text(path.read_text()[:-9])  # damaged: drawn anew
    fresh = plain(load(eurosat, "EuroSAT", 2).train_x)
    smaller = with_split(eurosat, train=2)  # another split: drawn anew
    read = load(eurosat, "EuroSAT", 2).train_x
    assert {d.impath for d in read} == {str(eurosat / "eurosat" / "2750" / p) for p, *_ in smaller["train"]}
    with_split(eurosat)
    assert plain(load(eurosat, "EuroSAT", 2).train_x) == fresh


def test_a_data_folder_that_cannot_be_written_to_is_used_all_the_same(eurosat, capsys, monkeypatch):
    def refuse(path, mode="w"):
        raise UserError("read-only")

    monkeypatch.setattr(reader, "writing", refuse)
    first, second = load(eurosat, "EuroSAT", 4, 2), load(eurosat, "EuroSAT", 4, 2)
    assert plain(first.train_x) == plain(second.train_x)
    assert plain(first.test) == plain(second.test)
    assert os.listdir(eurosat / "eurosat") == ["2750"]
    assert "Cannot write" in capsys.readouterr().out


# ---- CoOp's caches


def as_coop_pickles(root, train, val, **more):
    folder = root / "eurosat" / "split_fewshot"
    folder.mkdir(exist_ok=True)
    path = folder / "shot_2-seed_1.pkl"
    path.write_bytes(pickle.dumps({"train": train, "val": val, **more}, protocol=pickle.HIGHEST_PROTOCOL))
    return path


def test_coops_pickle_is_used_and_moved_to_where_the_dataset_is(eurosat):
    split = with_split(eurosat)
    here = eurosat / "eurosat" / "2750"
    chosen = [Datum(impath=str(here / p), label=y, classname=n) for p, y, n in split["train"][::4]]
    path = as_coop_pickles(eurosat, chosen, chosen[:3])
    assert plain(load(eurosat, "EuroSAT", 2).train_x) == plain(chosen)
    # the same cache from another machine
    for datum in chosen:
        datum._impath = datum._impath.replace(str(eurosat), "/home/somebody/else/data")
    as_coop_pickles(eurosat, chosen, chosen[:3])
    data = load(eurosat, "EuroSAT", 2)
    assert [d.impath for d in data.train_x] == [str(here / p) for p, *_ in split["train"][::4]]
    assert len(data.val) == 3
    assert not (path.parent / "shot_2-seed_1.json").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    "content", [Evil(), {"train": [Evil()]}, {"train": [types.SimpleNamespace(a=1)]}, [1, 2], {"train": [1]}, {}]
)
def test_anything_else_in_a_pickle_is_refused_and_not_run(eurosat, content, monkeypatch):
    monkeypatch.chdir(eurosat)
    with_split(eurosat)
    path = as_coop_pickles(eurosat, [], [])
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="shot_2-seed_1.pkl"):
        load(eurosat, "EuroSAT", 2)
    assert not os.path.exists("pwned")


@given(data=st.binary(max_size=60))
def test_a_damaged_pickle_is_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged.pkl"):
        read_pickle(str(path))


def test_a_cache_whose_training_images_are_tested_on_is_refused(eurosat):
    split = with_split(eurosat)
    here = eurosat / "eurosat" / "2750"
    as_coop_pickles(eurosat, [Datum(impath=str(here / p), label=y, classname=n) for p, y, n in split["test"]], [])
    with pytest.raises(UserError, match="both a training and a test image"):
        load(eurosat, "EuroSAT", 2)


# ---- base and new classes


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60).filter(lambda labels: len(set(labels)) > 1))
def test_base_and_new_classes_are_the_two_halves(labels):
    items = [Item(f"{i}.jpg", y, f"name{y}") for i, y in enumerate(labels)]
    parts = [subsample_classes(items, items[::2], subsample=which)[0] for which in ("base", "new")]
    distinct = sorted(set(labels))
    assert len({i.classname for i in parts[0]}) == (len(distinct) + 1) // 2
    assert sorted(i.impath for part in parts for i in part) == sorted(i.impath for i in items)
    for part, first in zip(parts, (0, (len(distinct) + 1) // 2)):
        for item in part:
            assert item.classname == f"name{distinct[first + item.label]}"


def test_subsampling_comes_after_the_draw(eurosat):
    with_split(eurosat)
    everything = load(eurosat, "EuroSAT", 3, 1)
    base = load(eurosat, "EuroSAT", 3, 1, SUBSAMPLE_CLASSES="base")
    new = load(eurosat, "EuroSAT", 3, 1, SUBSAMPLE_CLASSES="new")
    assert base.classnames + new.classnames == everything.classnames and base.num_classes == 3
    assert [d.impath for d in [*base.train_x, *new.train_x]] == [d.impath for d in everything.train_x]
    assert {d.label for d in new.test} == {0, 1}


# ---- bad input


@pytest.mark.parametrize("shots", [0, -2])
def test_shots_below_one(eurosat, shots):
    with pytest.raises(UserError, match="must be at least 1, or -1 for all images"):
        load(eurosat, "EuroSAT", shots)


def test_a_missing_dataset_says_where_from_and_where_to(tmp_path):
    with pytest.raises(UserError) as error:
        load(tmp_path, "EuroSAT", 16)
    command = f"python -m datasets.prepare eurosat --root {tmp_path}"
    for part in (str(tmp_path / "eurosat" / "2750"), "https://", command, "`digits` needs nothing"):
        assert part in str(error.value)
    assert os.listdir(tmp_path) == []


def test_an_image_that_the_split_names_is_gone(eurosat):
    split = with_split(eurosat)
    gone = eurosat / "eurosat" / "2750" / split["test"][-1][0]
    gone.unlink()
    with pytest.raises(UserError, match=gone.name):
        load(eurosat, "EuroSAT", 2)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update(train=[r for r in s["train"] if r[1] != 1]), '"Forest" has no training image'),
        (lambda s: s.update(test=[r for r in s["test"] if r[1] != 1]), '"Forest" has no test image'),
        (lambda s: [r.__setitem__(2, "Forest") for rows in s.values() for r in rows], 'both called "Forest"'),
        (lambda s: s["train"][0].__setitem__(2, "Somewhere"), 'called both "Somewhere"'),
        (lambda s: s.pop("val"), "cannot be read as a split"),
        (lambda s: s["train"].append(["x.jpg"]), "cannot be read as a split"),
    ],
)
def test_a_split_that_contradicts_itself(eurosat, change, message):
    split = with_split(eurosat)
    change(split)
    (eurosat / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match=message):
        load(eurosat, "EuroSAT", 2)


def test_too_few_images_to_divide_and_empty_class_folders(eurosat):
    images(eurosat / "eurosat" / "2750" / "Pasture", 3)
    with pytest.raises(UserError, match=r'"Pasture Land" has 3 image\(s\)'):
        load(eurosat, "EuroSAT")
    for file in os.listdir(eurosat / "eurosat" / "2750" / "Pasture"):
        (eurosat / "eurosat" / "2750" / "Pasture" / file).unlink()
    with pytest.raises(UserError, match="Pasture holds no image"):
        load(eurosat, "EuroSAT")
    assert not (eurosat / "eurosat" / "split_zhou_EuroSAT.json").exists()


def test_a_name_that_is_taken_stays():
    before = DATASET_REGISTRY.get("EuroSAT")

    class EuroSAT(reader.FewShotDataset):
        pass

    assert reader.register(EuroSAT) is EuroSAT
    assert DATASET_REGISTRY.get("EuroSAT") is before


def test_seeded_leaves_no_trace():
    random.seed(5)
    with seeded(1):
        inside = random.random()
    after = random.random()
    assert inside == random.Random(1).random() and after == random.Random(5).random()
    random.seed(5)
    with seeded(-1):
        assert random.random() == after


# ---- Digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    load(root, "Digits")
    return root


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    data = load(digits, "Digits")
    everything = [*data.train_x, *data.val, *data.test]
    assert len({d.impath for d in everything}) == len(everything) == 1797
    assert data.classnames == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for datum in everything[::50]:
        number = int(os.path.basename(datum.impath)[:-4])
        pixels = np.asarray(Image.open(datum.impath))
        assert pixels.shape == (8, 8) and datum.label == source.target[number]
        assert np.abs(pixels * (16 / 255) - source.images[number]).max() < 0.05
    assert [len(data.train_x), len(data.val), len(data.test)] == list(SOURCES["digits"].counts)


def test_digits_need_scikit_learn_only_once(digits, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert len(load(digits, "Digits", 16).train_x) == 160
    with pytest.raises(UserError, match="pip install scikit-learn"):
        load(tmp_path, "Digits")


def test_a_folder_of_digits_without_images_gets_them(tmp_path):
    (tmp_path / "digits" / "something").mkdir(parents=True)
    assert len(load(tmp_path, "Digits").test) == 540


def test_digits_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the digits"):
        load(tmp_path / "file", "Digits")


def test_three_processes_write_the_same_digits_at_once(tmp_path):
    processes = multiprocessing.get_context("fork")
    running = [processes.Process(target=write_digits, args=(str(tmp_path / "digits"),)) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert sorted(os.listdir(tmp_path)) == ["digits"]
    assert sum(len(files) for *_, files in os.walk(tmp_path)) == 1797


# ---- a user's own folder


def test_a_users_folder_is_divided_the_same_each_time(tmp_path):
    for name in ("golden_retriever", "SeaLake", "USFlag"):
        images(tmp_path / name, 10, ".PNG")
    images(tmp_path / "SeaLake" / "more", 4)
    (tmp_path / "SeaLake" / "notes.txt").write_text("no image")
    images(tmp_path / "SeaLake" / ".ipynb_checkpoints", 3)  # copies, which would leak into the test set
    images(tmp_path / "@eaDir", 3)
    random.seed(3)
    first = load(tmp_path, "ImageFolder", 2)
    random.seed(4)
    second = load(tmp_path, "ImageFolder", 2)
    assert first.classnames == ["Sea Lake", "US Flag", "golden retriever"]
    for part in ("train_x", "val", "test"):
        assert plain(getattr(first, part)) == plain(getattr(second, part))
    assert len(first.train_x) == 6 and len(first.test) == 3 + 3 + 4
    images(tmp_path / "Zebra", 10)  # a class more: seen at once, kept few shots or not
    assert load(tmp_path, "ImageFolder", 2).num_classes == 4


@pytest.mark.parametrize(
    "with_val, train, val, test",
    [
        (False, "train", "val", "test"),
        (True, "train", "val", "test"),
        (True, "Train", "Validation", "Test"),
    ],
)
def test_a_users_own_division_is_kept(tmp_path, with_val, train, val, test):
    for part, count in ((train, 5), (test, 2), *(((val, 1),) if with_val else ())):
        for name in ("cat", "train"):
            images(tmp_path / part / name, count)
    data = load(tmp_path, "ImageFolder")
    assert [len(data.train_x), len(data.val), len(data.test)] == [10, 2 * with_val, 4]
    assert all(f"/{test}/" in d.impath[len(str(tmp_path)) :] for d in data.test)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train", "test"):
        images(tmp_path / name, 5)
    assert load(tmp_path, "ImageFolder").classnames == ["bus", "test", "train"]


@pytest.mark.parametrize(
    "folders, message",
    [
        ({"golden_retriever": 5, "golden-retriever": 5}, "both read"),
        ({"only": 5}, "holds 1 class folder"),
        ({}, "holds 0 class folder"),
        ({"a": 5, "b": 0}, "b holds no image"),
        ({"a": 5, "_": 5}, "no word in its name"),
        ({"a": 5, "b": 2}, r'"b" has 2 image\(s\)'),
        ({"train/a": 5, "train/b": 5}, "no test/"),
        ({"train/a": 5, "train/b": 5, "test/a": 1, "test/b": 1, "test/c": 1}, "a class that train/ does not have"),
        ({"train/a": 5, "train/b": 5, "test/a": 1}, "b holds no image"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, folders, message):
    for name, count in folders.items():
        images(tmp_path / name, count)
    with pytest.raises(UserError, match=message):
        load(tmp_path, "ImageFolder", 1)


def test_a_users_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere.*--root"):
        load(tmp_path / "nowhere", "ImageFolder")


@pytest.mark.parametrize(
    "folder, name",
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("McDonalds", "McDonalds"),
        ("iPhone", "iPhone"),
        ("707-320", "707 320"),
        ("HerbaceousVegetation", "Herbaceous Vegetation"),
    ],
)
def test_readable_names_of_other_datasets(folder, name):
    assert readable(folder) == name


@given(st.text(alphabet="abcXYZ09_- ", max_size=12))
def test_readable_names_keep_every_letter_and_have_no_separators(name):
    words = readable(name)
    assert words.replace(" ", "") == name.replace("_", "").replace("-", "").replace(" ", "")
    assert words == " ".join(words.split()) and not set(words) & set("_-")
    assert readable(words) == words
