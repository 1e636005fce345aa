"""Split files and few-shot caches: the schema, the checksum, and rows that were changed behind the project's back."""

import json
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import images, load, plain
from miniatures import MINIATURES

from promptbias.datasets.coop_pickle import read_pickle
from promptbias.datasets.split_files import FewShotFile, NotSuchAFile, SplitFile, content_of, items, read, rows
from promptbias.datasets.splits import Item
from promptbias.utils.errors import UserError

SPLIT = "split_zhou_DescribableTextures.json"
CACHE = "split_fewshot/shot_2-seed_1.json"
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """A dataset with a split and a few-shot set that were drawn here; returns its folder."""
    root = tmp_path_factory.mktemp("data")
    for name in ("banded", "dotted", "woven"):
        images(root / "dtd" / "images" / name, 8)
    load(root, "DescribableTextures", 2)
    return root / "dtd"


def loaded(folder):
    data = load(folder.parent, "DescribableTextures", 2)
    return [plain(data.train_x), plain(data.val), plain(data.test)]


def changed(content, kind, rng):
    """The content of a file with other rows."""
    stored = content[rng.choice(["train", "val"])]
    where = rng.randrange(len(stored))
    if kind == "halved":
        del stored[len(stored) // 2 :]
    elif kind == "doubled":
        stored += stored
    elif kind == "relabelled":
        path, label, name = stored[where]
        stored[where] = [path, (label + 1) % 3, name]
    elif kind == "renamed":
        stored[where] = [*stored[where][:2], "striped"]
    elif kind == "another image":
        stored[where] = [stored[where][0].replace("_", "_1"), *stored[where][1:]]
    elif kind == "reordered":
        stored.insert(0, stored.pop())
    return content


@pytest.mark.parametrize("file", [SPLIT, CACHE])
@given(
    kind=st.sampled_from(["halved", "doubled", "relabelled", "renamed", "another image", "reordered"]), rng=st.randoms()
)
@settings(max_examples=40, deadline=None)
def test_changed_rows_are_never_used_silently(textures, file, kind, rng):
    path = textures / file
    whole = path.read_text()
    try:
        path.write_text(json.dumps(changed(json.loads(whole), kind, rng)))
        with pytest.raises(UserError, match="its checksum differs") as caught:
            loaded(textures)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    finally:
        path.write_text(whole)


@pytest.mark.parametrize("file", [SPLIT, CACHE])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_change_nothing_or_are_refused(textures, file, seed):
    """Whatever the damage, the images are those of the whole file, or there is one sentence."""
    rng, path = random.Random(seed), textures / file
    whole, expected = path.read_bytes(), loaded(textures)
    content = bytearray(whole)
    for _ in range(rng.choice([1, 1, 3])):
        where = rng.randrange(len(content))
        if rng.random() < 0.5:
            content[where] ^= 1 << rng.randrange(8)
        else:
            content[where : where + rng.randrange(3)] = rng.choice([b"", b"-1", b"[", b"\xff", b'"', b"9" * 30])
    try:
        path.write_bytes(content)
        try:
            assert loaded(textures) == expected
        except UserError as error:
            assert "\n" not in str(error)
    finally:
        path.write_bytes(whole)
        (textures / CACHE).exists() or loaded(textures)


@pytest.mark.parametrize("file", [SPLIT, CACHE])
def test_a_file_of_an_earlier_version_is_used_and_one_line_says_so(textures, file, capsys):
    path, expected = textures / file, loaded(textures)
    whole = path.read_text()
    content = json.loads(whole)
    del content["sha256"]
    capsys.readouterr()
    try:
        path.write_text(json.dumps(content, indent=4))
        assert loaded(textures) == expected
    finally:
        path.write_text(whole)
    assert capsys.readouterr().out.count(f"{path} has no checksum, and is used as it is\n") == 1


def test_the_layout_of_the_json_does_not_matter(textures):
    expected = loaded(textures)
    for file in (SPLIT, CACHE):
        path = textures / file
        content = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(content.items())), indent=2, ensure_ascii=False))
    assert loaded(textures) == expected


# ---- the schema


def write(path, **content):
    path.write_text(json.dumps({"train": [], "val": [], "test": [], **content}))
    return str(path)


@pytest.mark.parametrize(
    "row",
    [[], ["a.jpg", 0], ["a.jpg", 0, "a", 1], ["a.jpg", "0", "a"], ["a.jpg", -1, "a"], ["a.jpg", 10**12, "a"]]
    + [["a.jpg", 10**400, "a"], ["a.jpg", True, "a"], ["a.jpg", 0.5, "a"], ["a.jpg", None, "a"], ["", 0, "a"]]
    + [["a.jpg", 0, None], ["a.jpg", 0, 7], [["a.jpg"], 0, "a"], "a.jpg", None, {}],
)
def test_a_row_is_a_path_a_label_and_a_name(tmp_path, row):
    with pytest.raises(NotSuchAFile, match=r"\$.train|out of range|[Nn]umber"):
        read(write(tmp_path / "split.json", train=[row]), SplitFile)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"train": 1}', "[" * 10**5, '{"x":' * 10**5, "\ufeff{}", "\ud800"]
)
def test_other_json_and_none(tmp_path, text):
    (tmp_path / "split.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    for kind in (SplitFile, FewShotFile):
        with pytest.raises(NotSuchAFile) as caught:
            read(str(tmp_path / "split.json"), kind)
        assert len(str(caught.value)) <= 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/a.jpg", "a/../../a.jpg", ".", "a/.."])
def test_a_path_that_leads_out_of_the_folder(path):
    with pytest.raises(NotSuchAFile, match="is not in /data/images"):
        items([(path, 0, "a")], "/data/images")


@given(st.lists(st.tuples(NAMES, st.integers(0, 2**31 - 1), NAMES), max_size=9))
def test_what_is_written_is_read_back(tmp_path_factory, found):
    path, folder = tmp_path_factory.getbasetemp() / "split.json", "/data/images"
    there = [
        Item(f"{folder}/x/{name}", label, classname) for name, label, classname in found if name not in (".", "..")
    ]
    stored = rows(there, folder)
    for kind, file in (
        (SplitFile, SplitFile(drawn_by="promptbias", train=stored, val=[], test=stored)),
        (FewShotFile, FewShotFile(drawn_from="0" * 64, train=stored, val=stored)),
    ):
        path.write_text(json.dumps(content_of(file)))
        assert items(read(str(path), kind).train, folder) == there


# ---- labels and names, wherever they come from


@pytest.mark.parametrize("label", [10**12, 2**31 - 1, 5])
def test_a_label_far_out_takes_no_time(textures, label):
    path, whole = textures / SPLIT, (textures / SPLIT).read_text()
    content = json.loads(whole)
    del content["sha256"]
    for part in ("train", "val", "test"):
        content[part] = [[p, label if y == 2 else y, name] for p, y, name in content[part]]
    try:
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match='is not a split file|class "2" has no training images'):
            loaded(textures)
    finally:
        path.write_text(whole)


def test_a_negative_label_in_the_annotation_files(tmp_path):
    name, build = MINIATURES["oxford_pets"]
    build(tmp_path)
    for list_file in ("trainval.txt", "test.txt"):
        path = tmp_path / "oxford_pets" / "annotations" / list_file
        path.write_text(path.read_text().replace(" 1 1 1", " 0 1 1"))
    with pytest.raises(UserError, match='class "abyssinian" has the label -1, but labels count from 0'):
        load(tmp_path, name)


@pytest.mark.parametrize("name", ["DOTTED", "dotted ", "_dotted", "dotted&nbsp;", "ｄｏｔｔｅｄ"])
def test_two_classes_of_one_text(textures, name):
    path, whole = textures / SPLIT, (textures / SPLIT).read_text()
    content = json.loads(whole)
    del content["sha256"]
    for part in ("train", "val", "test"):
        content[part] = [[p, y, name if y == 2 else known] for p, y, known in content[part]]
    try:
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match='classes 1 and 2, "dotted" and ".*, are the same text to CLIP.*"dotted"'):
            loaded(textures)
    finally:
        path.write_text(whole)


def test_images_that_a_split_of_coop_lists_twice_are_said(textures, capsys):
    path, whole = textures / SPLIT, (textures / SPLIT).read_text()
    content = {part: stored for part, stored in json.loads(whole).items() if part in ("train", "val", "test")}
    content["train"] += content["train"][:2]
    try:
        path.write_text(json.dumps(content))
        load(textures.parent, "DescribableTextures")
    finally:
        path.write_text(whole)
    assert capsys.readouterr().err.endswith(": 2 of the training images are listed more than once\n")


# ---- files that are no files, and damaged annotations


@pytest.mark.parametrize("short", ["fgvc_aircraft", "oxford_flowers", "stanford_cars", "ucf101", "imagenet_a"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_damaged_annotation_files_are_one_sentence(tmp_path_factory, short, seed):
    rng, (name, build) = random.Random(seed), MINIATURES[short]
    root = tmp_path_factory.getbasetemp() / f"damaged_{short}"
    if not root.exists():
        build(root)
    files = [path for path in sorted(root.rglob("*")) if path.suffix in (".txt", ".mat", ".json")]
    path = rng.choice([file for file in files if "split" not in str(file)])
    whole = path.read_bytes()
    content = bytearray(whole)
    where = rng.randrange(len(content))
    content[where : where + rng.choice([0, 1, 9])] = rng.choice([b"\xff", b"-1", b" ", b"\n", b"{", rng.randbytes(9)])
    try:
        path.write_bytes(content)
        load(root, name, 1)
    except UserError as error:
        assert str(root) in str(error)
    finally:
        path.write_bytes(whole)
        for drawn in [*root.rglob("split_zhou*"), *root.rglob("shot_*")]:
            drawn.unlink()


@pytest.mark.parametrize("file", [SPLIT, CACHE, CACHE.replace("json", "pkl")])
def test_a_pipe_in_place_of_a_file_is_refused(textures, file):
    path = textures / file
    whole = path.read_text() if path.exists() else None
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        with pytest.raises(UserError, match=f"{path} is not a regular file"):
            loaded(textures)
    finally:
        path.unlink()
        if whole is not None:
            path.write_text(whole)


def test_a_pipe_in_place_of_an_annotation_file_is_refused(tmp_path):
    name, build = MINIATURES["ucf101"]
    build(tmp_path)
    path = tmp_path / "ucf101" / "ucfTrainTestlist" / "classInd.txt"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"{path} is not a regular file"):
        load(tmp_path, name)


def test_a_small_pickle_takes_little_memory(tmp_path):
    """These nine bytes announce 2**31 objects, for which pickle's unpickler in C makes room: 32 GB."""
    (tmp_path / "small.pkl").write_bytes(b"}r\xff\xff\xff\x7f.")
    assert read_pickle(str(tmp_path / "small.pkl")) == {}


def as_2sfs(path, root, rows):
    """A few-shot set in the layout of 2SFS's public files, with the paths of another machine."""
    lines = [
        {"_impath": f"{root}/dtd/images/{p}", "_label": k, "_domain": 0, "_classname": name} for p, k, name in rows
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def public(textures):
    """The paths of a few-shot set of 2SFS for two shots, which are not there afterwards."""
    paths = {part: textures / "split_fewshot" / f"shot_2-seed_1_{part}.jsonl" for part in ("train", "val")}
    yield paths
    for path in paths.values():
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("root", ["/leonardo/data", "data", "C:\\data"])
def test_a_public_set_of_2sfs_takes_the_place_of_a_draw(textures, public, root, capsys):
    drawn, split = loaded(textures), json.loads((textures / SPLIT).read_text())
    chosen = [next(row for row in split["train"][::-1] if row[1] == label) for label in (2, 0, 1)]
    as_2sfs(public["train"], root, chosen)
    train, val, test = loaded(textures)
    assert [(path.rpartition("images/")[2], label, name) for path, label, name in train] == [tuple(r) for r in chosen]
    assert all(os.path.isfile(path) for path, _, _ in train)
    assert test == drawn[2] and [label for _, label, _ in val].count(0) == len([r for r in split["val"] if r[1] == 0])
    as_2sfs(public["val"], root, split["val"][:1])
    assert [row[1:] for row in loaded(textures)[1]] == [tuple(split["val"][0][1:])]
    assert f"{public['train']}, which is 2SFS's and has no checksum" in capsys.readouterr().out
    public["train"].unlink()
    assert loaded(textures) == drawn


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "is not a few-shot set of 2SFS"),
        ('{"_impath": "/a/dtd/images/x.jpg", "_label": "0", "_classname": "x"}', r"\$\.?.*_label"),
        ('{"impath": "/a/dtd/images/x.jpg", "label": 0, "classname": "x"}', "_impath"),
        (
            '{"_impath": "/a/pets/x.jpg", "_label": 0, "_classname": "x"}',
            "lists /a/pets/x.jpg, which is not in a folder",
        ),
        (
            '{"_impath": "/a/dtd/../pets/x.jpg", "_label": 0, "_classname": "x"}',
            "lists /a/dtd/../pets/x.jpg, which leads out of",
        ),
    ],
)
def test_a_damaged_public_set_is_refused_in_one_sentence(textures, public, text, said):
    public["train"].write_text(text + "\n")
    with pytest.raises(UserError, match=said) as caught:
        loaded(textures)
    assert str(public["train"]) in str(caught.value) and "\n" not in str(caught.value)


def test_a_public_set_with_too_many_images_of_a_class_is_refused(textures, public):
    """As where one of 16 shots was given the name of one of two, or lines were doubled."""
    split = json.loads((textures / SPLIT).read_text())
    of_class = {label: [row for row in split["train"] if row[1] == label] for label in range(3)}
    name = of_class[1][0][2]
    as_2sfs(public["train"], "/data", [*of_class[0][:2], *(of_class[1] * 3)[:3], *of_class[2][:2]])
    with pytest.raises(UserError, match=f'has 3 training images of "{name}", which is no set of 2 per class'):
        loaded(textures)


def test_a_public_validation_set_is_checked_against_the_split(textures, public, capsys):
    split = json.loads((textures / SPLIT).read_text())
    chosen = [next(row for row in split["train"] if row[1] == label) for label in range(3)]
    as_2sfs(public["train"], "/data", chosen)
    (path, _, name), other = split["val"][0], next(row for row in split["val"] if row[1] == 2)
    as_2sfs(public["val"], "/data", [(path, 2, name)])
    with pytest.raises(UserError, match=f'class 2 is called both "{other[2]}" and "{name}"'):
        loaded(textures)
    as_2sfs(public["val"], "/data", [(path, 7, "another")])
    with pytest.raises(UserError, match="has no training images"):
        loaded(textures)
    as_2sfs(public["val"], "/data", [split["test"][0], split["val"][0]])
    loaded(textures)
    assert "1 of the validation images are training or test images too" in capsys.readouterr().err
