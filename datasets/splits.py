"""How images are split: into train, val and test, and into base and new classes; and the checks of a split.

The draws are CoOp's, so that the same state of `random` gives the same images. File listings are sorted first, because
their order differs between machines.
"""

import contextlib
import html
import io
import itertools
import math
import os
import random
import struct
import sys
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from promptbias.utils.errors import UserError
from promptbias.utils.files import regular_file

from .image_files import ImageFiles

MAT_HEADER, MAT_COMPRESSED = 128, 15  # bytes, and the tag of a compressed variable, in MATLAB's files


class Item(NamedTuple):
    """One image: absolute path, class index from 0, class name. Dassl's Datum without its check for the file."""

    impath: str
    label: int
    classname: str


Split = tuple[list[Item], list[Item], list[Item]]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed `random` for the block and restore its state afterwards.

    So the random numbers that follow do not depend on whether a set was drawn or read from a cache. A negative seed
    means unseeded, as in Dassl.
    """
    state = random.getstate()
    if seed >= 0:
        random.seed(seed)
    try:
        yield
    finally:
        if seed >= 0:
            random.setstate(state)


def by_class(items: Sequence[Item]) -> dict[int, list[Item]]:
    """Items by label, in order of first occurrence."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def divide(images: list[Item]) -> Split:
    """Split one class at random: 50 % for training, 20 % for validation, 30 % for testing.

    Raises:
        UserError: too few images for one of each.
    """
    random.shuffle(images)
    n_train, n_val = round(len(images) * 0.5), round(len(images) * 0.2)
    if not 0 < n_val < len(images) - n_train:
        raise UserError(
            f'class "{images[0].classname}" has {len(images)} image(s) in {os.path.dirname(images[0].impath)}, too few '
            "for a training, validation and test set; add images, or remove the class"
        )
    return images[:n_train], images[n_train : n_train + n_val], images[n_train + n_val :]


def divide_each(classes: Sequence[list[Item]]) -> Split:
    """`divide` every class in turn."""
    parts: Split = ([], [], [])
    for images in classes:
        for part, chosen in zip(parts, divide(images)):
            part.extend(chosen)
    return parts


def hold_out(trainval: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Hold out 20 % of each class for validation: (train, val).

    Raises:
        UserError: a class has too few images for one of each.
    """
    train, val = [], []
    for images in by_class(trainval).values():
        n_val = round(len(images) * 0.2)
        if n_val == 0:
            raise UserError(
                f'class "{images[0].classname}" has {len(images)} training image(s) ({images[0].impath}), too few to '
                "hold out 20 % for validation; add images, or download the benchmark's split file"
            )
        random.shuffle(images)
        val.extend(images[:n_val])
        train.extend(images[n_val:])
    return train, val


def listing(folder: str) -> list[str]:
    """Sorted names in a folder, without hidden ones."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def open_annotation(path: str) -> IO[bytes]:
    """Open a file; FileNotFoundError if there is none, and UserError if it is a pipe or a device."""
    if os.path.exists(path):
        regular_file(path)
    return open(path, "rb")


def text_lines(path: str) -> list[str]:
    """Stripped lines of a text file in UTF-8, without empty ones."""
    with open_annotation(path) as file, io.TextIOWrapper(file, encoding="utf-8") as lines:
        return [line.strip() for line in lines if line.strip()]


def read_mat(path: str) -> dict[str, Any]:
    """Read a MATLAB file; FileNotFoundError or ValueError if that fails."""
    from scipy.io import loadmat

    with open_annotation(path) as file:
        try:
            _verify_mat(file.read())
            file.seek(0)
            return loadmat(file)
        except Exception as error:  # scipy raises errors of many kinds for a damaged file
            raise ValueError(f"{path} is not a MATLAB file: {error}") from error


def _verify_mat(content: bytes) -> None:
    """Raises an error if the checksum of a compressed variable is wrong: scipy reads on, and may crash the process."""
    order = ">" if content[126:128] == b"MI" else "<"
    at = MAT_HEADER
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        at += 8 + size
        if kind == MAT_COMPRESSED:
            zlib.decompress(content[at - size : at])


def class_folders(folder: str, names: Mapping[str, str] | None = None, ignored: Sequence[str] = ()) -> list[list[Item]]:
    """The images of each class of `folder/<class>/<image>`; `names` overrides the folder's name as class name.

    Raises:
        UserError: a class folder has no images.
    """
    folders = [name for name in listing(folder) if name not in ignored and os.path.isdir(os.path.join(folder, name))]
    files, classes = ImageFiles(), []
    for label, name in enumerate(folders):
        path = os.path.join(folder, name)
        classname = (names or {}).get(name, name)
        classes.append([Item(os.path.join(path, image), label, classname) for image in files.names(path)])
        if not classes[-1]:
            raise UserError(f"class folder {path} has no images; add some, or remove the folder")
    files.say_left_out(folder)
    return classes


def check_encoding(items: Iterable[Item]) -> None:
    """Raises UserError if a path is not UTF-8, which neither JSON nor CSV files could hold."""
    for item in items:
        try:
            item.impath.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the name of the file {ascii(item.impath)} is not UTF-8; rename it") from error


def subsample_classes(*sets: Sequence[Item], subsample: str) -> tuple[list[Item], ...]:
    """Keep "base" classes (the first half of the labels of the first set, rounded up), "new" ones (the rest), or "all".

    The labels of the chosen classes are renumbered from 0.

    Raises:
        UserError: `subsample` is not one of the three, or no class is left.
    """
    if subsample not in ("all", "base", "new"):
        raise UserError(f'DATASET.SUBSAMPLE_CLASSES is "{subsample}"; it must be "all", "base" or "new"')
    labels = sorted({item.label for item in sets[0]})
    half = math.ceil(len(labels) / 2)
    chosen = {"all": labels, "base": labels[:half], "new": labels[half:]}[subsample]
    if not chosen:
        raise UserError(f'no "{subsample}" classes are left of {len(labels)}; set DATASET.SUBSAMPLE_CLASSES to "all"')
    if subsample == "all":
        return tuple(list(items) for items in sets)
    relabelled = {label: new for new, label in enumerate(chosen)}
    return tuple(
        [item._replace(label=relabelled[item.label]) for item in items if item.label in relabelled] for items in sets
    )


def text_of(name: str) -> str:
    """A class name as CLIP's tokenizer sees it: two names with the same text cannot be told apart by any method."""
    plain = html.unescape(html.unescape(unicodedata.normalize("NFKC", name)))
    return " ".join(plain.replace("_", " ").lower().split())


def check_split(
    train: Sequence[Item], val: Sequence[Item], test: Sequence[Item], where: str, same_names: bool = False
) -> None:
    """Check that classes count from 0, have training and test images and a text of their own.

    That no image is in both of these sets is checked too. Said on stderr are images that are listed twice in one, and
    validation images that are in another set.

    Args:
        where: the dataset and its folder, for the message
        same_names: whether classes may share a name

    Raises:
        UserError: one of these does not hold.
    """
    names = _class_names((*train, *test, *val), where)
    if min(names) < 0:
        raise UserError(
            f'{where}: class "{names[min(names)]}" has the label {min(names)}, but labels count from 0; correct its '
            "split file"
        )
    for items, kind in ((train, "training"), (test, "test")):
        labels = {item.label for item in items}
        lacking = next(label for label in itertools.count() if label not in labels)
        if lacking <= max(names):
            name = names.get(lacking, lacking)
            raise UserError(
                f'{where}: class "{name}" has no {kind} images; add images and delete the split file, or correct it'
            )
        repeated = len(items) - len({item.impath for item in items})
        if repeated:
            print(f"{where}: {repeated:,} of the {kind} images are listed more than once", file=sys.stderr)
    if not same_names:
        _check_texts(names, where)
    both = {item.impath for item in train}.intersection(item.impath for item in test)
    if both:
        raise UserError(
            f"{where}: {min(both)} is both a training and a test image; if a few-shot cache belongs to another split, "
            "delete it"
        )
    shared = {item.impath for item in val}.intersection(item.impath for item in (*train, *test))
    if shared:
        print(f"{where}: {len(shared):,} of the validation images are training or test images too", file=sys.stderr)


def _check_texts(names: Mapping[int, str], where: str) -> None:
    """Raises UserError if a class has no text, or two have the same."""
    first: dict[str, int] = {}
    for label, name in sorted(names.items()):
        text = text_of(name)
        if not text:
            raise UserError(f"{where}: class {label} has no name; give it one")
        other = first.setdefault(text, label)
        if other == label:
            continue
        if names[other] == name:
            raise UserError(f'{where}: classes {other} and {label} are both called "{name}"; rename one')
        raise UserError(
            f'{where}: classes {other} and {label}, "{names[other]}" and "{name}", are the same text to CLIP, which '
            f'reads both as "{text}"; rename one'
        )


def _class_names(items: Sequence[Item], where: str) -> dict[int, str]:
    """Name of each label; UserError if a label has two."""
    names: dict[int, str] = {}
    for item in items:
        if names.setdefault(item.label, item.classname) != item.classname:
            raise UserError(
                f'{where}: class {item.label} is called both "{names[item.label]}" and "{item.classname}" '
                f"({item.impath}); correct its split file"
            )
    return names
