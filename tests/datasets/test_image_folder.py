"""ImageFolder: a user's own folder of images."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import images, load, plain

from promptbias.datasets.image_folder import readable
from promptbias.utils.errors import UserError


def test_a_users_folder_is_split_the_same_way_each_time(tmp_path):
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
    images(tmp_path / "Zebra", 10)  # another class: noticed at once in spite of cached few-shot images
    assert load(tmp_path, "ImageFolder", 2).num_classes == 4


@pytest.mark.parametrize(
    "with_val, train, val, test",
    [
        (False, "train", "val", "test"),
        (True, "train", "val", "test"),
        (True, "Train", "Validation", "Test"),
    ],
)
def test_a_users_own_split_is_kept(tmp_path, with_val, train, val, test):
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
        ({"golden_retriever": 5, "golden-retriever": 5}, "are both"),
        ({"only": 5}, r"has 1 class folder\(s\)"),
        ({}, r"has 0 class folder\(s\)"),
        ({"a": 5, "b": 0}, "b has no images"),
        ({"a": 5, "_": 5}, "no word in its name"),
        ({"a": 5, "b": 2}, r'"b" has 2 image\(s\)'),
        ({"train/a": 5, "train/b": 5}, "no test/"),
        ({"train/a": 5, "train/b": 5, "test/a": 1, "test/b": 1, "test/c": 1}, "a class that is not in train/"),
        ({"train/a": 5, "train/b": 5, "test/a": 1}, "b has no images"),
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
