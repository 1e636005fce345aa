"""How images are divided: into train, val and test, into shots, into base and new classes.

The draws are CoOp's, so that the same state of `random` gives the same images; lists that come from a folder are sorted
first, because the order in which a file system lists its files differs between machines.
"""

import contextlib
import math
import os
import random
from typing import Any, NamedTuple
from collections.abc import Iterator, Mapping, Sequence

from promptbias.utils.errors import UserError


DRAWN_BY = "drawn_by"  # key of a split file that was made here, and not by CoOp


class Item(NamedTuple):
    """One image: absolute path, class index from 0, class name. Dassl's Datum without its look at the disk."""

    impath: str
    label: int
    classname: str


Split = tuple[list[Item], list[Item], list[Item]]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `random` as if `set_random_seed(seed)` had just run, and leave its state as it was found.

    So a set that is drawn and one that comes from a cache are the same and are followed by the same random numbers.
    A negative seed means no fixed seed, as in Dassl.
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
    """Items by label, labels in the order in which they first appear."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def divide(images: list[Item]) -> Split:
    """Half of one class for training, a fifth for validation, the rest for testing, in random order.

    Raises:
        UserError: too few images to have one of each.
    """
    random.shuffle(images)
    n_train, n_val = round(len(images) * 0.5), round(len(images) * 0.2)
    if not 0 < n_val < len(images) - n_train:
        raise UserError(
            f'class "{images[0].classname}" has {len(images)} image(s) in {os.path.dirname(images[0].impath)}, too few '
            "for a train, a val and a test set; add images, or leave the class out"
        )
    return images[:n_train], images[n_train : n_train + n_val], images[n_train + n_val :]


def divide_each(classes: Sequence[list[Item]]) -> Split:
    """`divide` for one class after the other."""
    train, val, test = [], [], []
    for images in classes:
        for part, chosen in zip((train, val, test), divide(images)):
            part.extend(chosen)
    return train, val, test


def hold_out(trainval: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """A fifth of each class for validation: (train, val).

    Raises:
        UserError: a class with too few images to have one of each.
    """
    train, val = [], []
    for images in by_class(trainval).values():
        n_val = round(len(images) * 0.2)
        if n_val == 0:
            raise UserError(
                f'class "{images[0].classname}" has {len(images)} training image(s) ({images[0].impath}), too few to '
                "hold a fifth out for validation; add images, or put the benchmark's split file beside them"
            )
        random.shuffle(images)
        val.extend(images[:n_val])
        train.extend(images[n_val:])
    return train, val


def listing(folder: str) -> list[str]:
    """Names in a folder, hidden ones left out, sorted."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def text_lines(path: str) -> list[str]:
    """Lines of a text file without surrounding space, empty ones left out."""
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def read_mat(path: str) -> dict[str, Any]:
    """A MATLAB file; FileNotFoundError or ValueError where it cannot be read."""
    from scipy.io import loadmat

    with open(path, "rb") as file:
        try:
            return loadmat(file)
        except Exception as error:  # scipy's reader meets damage with errors of many kinds
            raise ValueError(f"{path} is no MATLAB file: {error}") from error


def class_folders(folder: str, names: Mapping[str, str] = {}, ignored: Sequence[str] = ()) -> list[list[Item]]:
    """The images of each class of `folder/<class>/<image>`; `names` gives a class a better name than its folder's.

    Raises:
        UserError: a class folder without an image.
    """
    folders = [name for name in listing(folder) if name not in ignored and os.path.isdir(os.path.join(folder, name))]
    classes = []
    for label, name in enumerate(folders):
        path = os.path.join(folder, name)
        classes.append([Item(os.path.join(path, image), label, names.get(name, name)) for image in listing(path)])
        if not classes[-1]:
            raise UserError(f"class folder {path} holds no image; add images, or remove the folder")
    return classes


def subsample_classes(*sets: Sequence[Item], subsample: str) -> tuple[list[Item], ...]:
    """The "base" classes (first half of the labels of the first set, rounded up), the "new" ones (the rest), or "all".

    Labels of the chosen classes count from 0 again.

    Raises:
        UserError: `subsample` is none of the three, or there is no such class.
    """
    if subsample not in ("all", "base", "new"):
        raise UserError(f'DATASET.SUBSAMPLE_CLASSES is "{subsample}"; it is "all", "base" or "new"')
    labels = sorted({item.label for item in sets[0]})
    half = math.ceil(len(labels) / 2)
    chosen = {"all": labels, "base": labels[:half], "new": labels[half:]}[subsample]
    if not chosen:
        raise UserError(f'there is no "{subsample}" class among {len(labels)}; set DATASET.SUBSAMPLE_CLASSES to "all"')
    if subsample == "all":
        return tuple(list(items) for items in sets)
    relabelled = {label: new for new, label in enumerate(chosen)}
    return tuple(
        [item._replace(label=relabelled[item.label]) for item in items if item.label in relabelled] for items in sets
    )
