"""ImageFolder: a user's own folder of images."""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import images, load, plain

from promptbias.datasets.image_folder import readable
from promptbias.datasets.splits import text_of
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
        ({"golden_retriever": 5, "golden-retriever": 5}, 'are both "golden retriever"'),
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


# ---- what is said


def test_every_format_is_read_and_what_is_left_out_is_said(tmp_path, capsys):
    for name in ("cat", "dog"):
        images(tmp_path / name, 4)
    images(tmp_path / "cat", 3, ".jfif")
    images(tmp_path / "cat", 2, ".WebP")
    for name in ("a.heic", "b.HEIC", "notes.txt", "README", "Thumbs.db", "flyer.eps"):
        (tmp_path / "dog" / name).write_text("something")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    os.symlink("nowhere.png", tmp_path / "dog" / "gone.png")
    data = load(tmp_path, "ImageFolder")
    assert len(data.train_x) + len(data.val) + len(data.test) == 4 + 3 + 2 + 4
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}: files in class folders are left out: 2 that are no regular files, or links")
    for what in ("2 .heic", "1 .txt", "1 without ending", "1 .db", "1 .eps", "`pip install pillow-heif`"):
        assert what in said
    assert said.count("\n") == 1


def test_a_class_of_unreadable_formats_alone(tmp_path):
    images(tmp_path / "cat", 5)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.heic").write_text("something")
    with pytest.raises(
        UserError, match=r"dog has no images \(of all class folders.*1 \.heic, which Pillow does not read"
    ):
        load(tmp_path, "ImageFolder")


def test_classes_with_fewer_images_than_shots_are_named_once(tmp_path, capsys):
    for name, count in (("ant", 8), ("bee", 40), ("cat", 10)):
        images(tmp_path / name, count)
    for _ in range(2):  # drawn, and read from the cache
        assert len(load(tmp_path, "ImageFolder", 16).train_x) == 4 + 16 + 5
        assert capsys.readouterr().err == "Classes with fewer than 16 training images: ant 4, cat 5\n"
    load(tmp_path, "ImageFolder", 4)
    assert capsys.readouterr().err == ""


def test_of_many_classes_ten_are_named(tmp_path, capsys):
    for number in range(13):
        images(tmp_path / f"class {chr(97 + number)}", 4)
    load(tmp_path, "ImageFolder", 3)
    assert capsys.readouterr().err.endswith("class j 2 and 3 more\n")


# ---- names


@pytest.mark.parametrize(
    "one, other",
    [("Cat", "cat"), ("ice-cream", "Ice_Cream"), ("caf\u00e9", "cafe\u0301"), ("ﬁg", "fig"), ("1.Cat", "2.CAT")],
)
def test_classes_that_clip_reads_as_the_same_text_are_refused(tmp_path, one, other):
    for name in (one, other):
        images(tmp_path / name, 4)
    with pytest.raises(UserError, match="are both .* to CLIP, which reads lower case; rename one"):
        load(tmp_path, "ImageFolder")


def test_the_same_text_is_that_of_clips_tokenizer():
    from promptbias.model.templates import fill, tokenize

    pairs = [
        ("Cat", "cat"),
        ("caf\u00e9", "cafe\u0301"),
        ("ﬁg", "fig"),
        ("a&amp;b", "a&b"),
        ("ice cream", "Ice_Cream "),
    ]
    for pair in [*pairs, ("cat", "cats"), ("ice cream", "icecream"), ("café", "cafe")]:
        first, second = tokenize(fill("a photo of a {}.", pair), pair, 77)
        assert (text_of(pair[0]) == text_of(pair[1])) == bool((first == second).all()), pair


def test_a_class_may_be_spelt_with_combining_characters_in_one_part(tmp_path):
    images(tmp_path / "train" / "caf\u00e9", 3)
    images(tmp_path / "test" / "cafe\u0301", 2)
    for part in ("train", "test"):
        images(tmp_path / part / "bar", 2)
    data = load(tmp_path, "ImageFolder")
    assert data.classnames == ["bar", "caf\u00e9"] and len(data.test) == 4


@given(
    folders=st.lists(st.text(max_size=60), min_size=1, max_size=4, unique=True),
    files=st.lists(st.text(max_size=20), min_size=1, max_size=4, unique=True),
)
@settings(max_examples=60, deadline=None)
def test_any_names_of_folders_and_files_work_or_are_one_sentence(tmp_path_factory, folders, files):
    root = tmp_path_factory.mktemp("names")
    written = 0
    for folder in (*folders, "zebra", "yak"):
        for file in (*files, "1", "2", "3", "4"):
            try:
                os.makedirs(root / folder, exist_ok=True)
                (root / folder / f"{file}.png").write_bytes(b"")
                written += 1
            except (OSError, ValueError):  # no name of a file
                pass
    try:
        data = load(root, "ImageFolder", 2)
        again = load(root, "ImageFolder", 2)
    except UserError as error:
        assert str(error)
    else:
        assert plain(again.train_x) == plain(data.train_x) and data.num_classes >= 2
        assert len(set(data.classnames)) == data.num_classes <= len(folders) + 2


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    for name in ("cat", "dog"):
        images(tmp_path / name, 4)
    (tmp_path / "dog" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(UserError, match=r"udcff.png' is not UTF-8; rename it"):
        load(tmp_path, "ImageFolder", 2)


# ---- links


def test_links_are_followed_and_nothing_is_read_twice(tmp_path, capsys):
    root = tmp_path / "root"
    for name in ("cat", "dog"):
        images(root / name, 4)
    images(tmp_path / "elsewhere", 3)
    os.symlink(tmp_path / "elsewhere", root / "cat" / "more")
    os.symlink("cat_0.jpg", root / "cat" / "again.jpg")  # would be in the training and the test set
    os.link(root / "cat" / "cat_1.jpg", root / "cat" / "hard.jpg")
    os.symlink("..", root / "cat" / "loop")
    os.symlink("../dog", root / "cat" / "like this")
    os.symlink("loop", root / "dog" / "loop")
    data = load(root, "ImageFolder")
    paths = [item[0] for part in (data.train_x, data.val, data.test) for item in plain(part)]
    assert len({os.stat(path).st_ino for path in paths}) == len(paths) == 4 + 3 + 4
    assert sum("/more/" in path for path in paths) == 3
    assert "4 that are links to others there" in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        images(tmp_path / name, 4)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"dog cannot be read \(Permission denied\)"):
        load(tmp_path, "ImageFolder")
