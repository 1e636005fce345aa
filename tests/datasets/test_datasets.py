"""The shared reader: split files, few-shot draws, CoOp's caches and checks, with EuroSAT's layout in miniature."""

import json
import os
import pickle
import random
import types

import pytest
from dassl.data.datasets import DATASET_REGISTRY, Datum
from hypothesis import given
from hypothesis import strategies as st
from loading import images, load, plain

from promptbias.datasets import reader
from promptbias.datasets.coop_pickle import read_pickle
from promptbias.datasets.splits import Item, seeded, subsample_classes
from promptbias.utils.errors import UserError

EUROSAT = [
    ("AnnualCrop", "Annual Crop Land"),
    ("Forest", "Forest"),
    ("River", "River"),
    ("SeaLake", "Sea or Lake"),
    ("Residential", "Residential Buildings"),
]


@pytest.fixture
def eurosat(tmp_path):
    for folder, _ in EUROSAT:
        images(tmp_path / "eurosat" / "2750" / folder, 20)
    return tmp_path


def with_split(root, train=8, val=4, test=8):
    """A split file as CoOp writes it, in random order."""
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


def test_a_missing_split_is_drawn_once_and_is_the_same_for_every_seed(eurosat, capsys):
    random.seed(7)
    before = random.getstate()
    first = load(eurosat, "EuroSAT", seed=3)
    assert random.getstate() == before
    path = eurosat / "eurosat" / "split_zhou_EuroSAT.json"
    written = path.read_text()
    assert sorted(json.loads(written)) == ["drawn_by", "sha256", "test", "train", "val"]
    assert "not CoOp's" in capsys.readouterr().err
    assert [len(first.train_x), len(first.val), len(first.test)] == [50, 20, 30]
    assert plain(load(eurosat, "EuroSAT", seed=2).test) == plain(first.test)
    path.unlink()
    load(eurosat, "EuroSAT", seed=2)
    assert path.read_text() == written

    # computed independently: classes by name, files by name, one shuffle per class after random.seed(1), 50/20/30 %
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


def test_cached_few_shots_are_read_and_follow_the_split(eurosat):
    with_split(eurosat)
    load(eurosat, "EuroSAT", 2)
    path = eurosat / "eurosat" / "split_fewshot" / "shot_2-seed_1.json"
    kept = json.loads(path.read_text())
    kept["train"].reverse()
    del kept["sha256"]  # so that a file that was changed on purpose is used
    path.write_text(json.dumps(kept))
    read = load(eurosat, "EuroSAT", 2).train_x
    assert [d.impath for d in read] == [str(eurosat / "eurosat" / p) for p, *_ in kept["train"]]
    path.write_text(path.read_text()[:-9])  # damaged: redrawn
    fresh = plain(load(eurosat, "EuroSAT", 2).train_x)
    smaller = with_split(eurosat, train=2)  # another split: redrawn
    read = load(eurosat, "EuroSAT", 2).train_x
    assert {d.impath for d in read} == {str(eurosat / "eurosat" / "2750" / p) for p, *_ in smaller["train"]}
    with_split(eurosat)
    assert plain(load(eurosat, "EuroSAT", 2).train_x) == fresh


def test_a_read_only_data_folder_works(eurosat, capsys, monkeypatch):
    def refuse(path, mode="w"):
        raise UserError("read-only")

    monkeypatch.setattr(reader, "atomic_write", refuse)
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


def test_coops_pickle_is_used_and_its_paths_are_relocated(eurosat):
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
def test_anything_else_in_a_pickle_is_rejected_and_not_executed(eurosat, content, monkeypatch):
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


def test_a_cache_with_test_images_among_its_training_images_is_rejected(eurosat):
    split = with_split(eurosat)
    here = eurosat / "eurosat" / "2750"
    first = list({y: (p, y, n) for p, y, n in split["test"]}.values())
    as_coop_pickles(eurosat, [Datum(impath=str(here / p), label=y, classname=n) for p, y, n in first], [])
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


def test_a_missing_dataset_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError) as error:
        load(tmp_path, "EuroSAT", 16)
    command = f"python -m datasets.prepare eurosat --root {tmp_path}"
    for part in (str(tmp_path / "eurosat" / "2750"), "https://", command, "`digits` needs no download"):
        assert part in str(error.value)
    assert os.listdir(tmp_path) == []


def test_an_image_of_the_split_is_missing(eurosat):
    split = with_split(eurosat)
    gone = eurosat / "eurosat" / "2750" / split["test"][-1][0]
    gone.unlink()
    with pytest.raises(UserError, match=gone.name):
        load(eurosat, "EuroSAT", 2)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update(train=[r for r in s["train"] if r[1] != 1]), '"Forest" has no training images'),
        (lambda s: s.update(test=[r for r in s["test"] if r[1] != 1]), '"Forest" has no test images'),
        (lambda s: [r.__setitem__(2, "Forest") for rows in s.values() for r in rows], 'both called "Forest"'),
        (lambda s: s["train"][0].__setitem__(2, "Somewhere"), 'called both "Somewhere"'),
        (lambda s: s.pop("val"), "is not a split file"),
        (lambda s: s["train"].append(["x.jpg"]), "is not a split file"),
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
    with pytest.raises(UserError, match="Pasture has no images"):
        load(eurosat, "EuroSAT")
    assert not (eurosat / "eurosat" / "split_zhou_EuroSAT.json").exists()


def test_registration_keeps_an_existing_name():
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
