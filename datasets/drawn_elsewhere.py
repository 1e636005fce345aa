"""Few-shot sets that others drew: CoOp's caches, and the sets that 2SFS publishes. Neither has a checksum.

split_fewshot/shot_16-seed_1.pkl          CoOp's (see coop_pickle.py)
split_fewshot/shot_16-seed_1_train.jsonl  2SFS's (github.com/FarinaMatteo/rethinking_fewshot_vlms): JSON lines, one
split_fewshot/shot_16-seed_1_val.jsonl    per image
"""

import os
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec

from promptbias.utils.errors import UserError
from promptbias.utils.files import regular_file

from .coop_pickle import read_pickle
from .split_files import Row
from .splits import Item

Sets = dict[str, list[Item]]  # "train", "val", "test", those that there are


class PublicRow(msgspec.Struct, rename=lambda name: "_" + name):
    """One line of a few-shot set of 2SFS, which keeps Dassl's names; its `_domain` is not needed."""

    impath: Annotated[str, msgspec.Meta(min_length=1)]  # of the machine that drew the set
    label: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    classname: str


def find(stem: str, folder: str) -> Sets | None:
    """The set of others at `stem`, CoOp's before 2SFS's, or None.

    Args:
        folder: of the dataset.

    Raises:
        UserError: it is damaged, or lists what is not in `folder`.
    """
    if os.path.exists(stem + ".pkl"):
        print(f"Few-shot images: {stem}.pkl, which is CoOp's and has no checksum")
        return read_coop(stem + ".pkl", folder, "train")
    if os.path.exists(stem + "_train.jsonl"):
        print(f"Few-shot images: {stem}_train.jsonl, which is 2SFS's and has no checksum")
        paths = {part: f"{stem}_{part}.jsonl" for part in ("train", "val")}
        return {part: relocated(read_lines(path), path, folder) for part, path in paths.items() if os.path.exists(path)}
    return None


def read_coop(path: str, folder: str, *needed: str) -> Sets:
    """A cache of CoOp's, with its paths in `folder`.

    Raises:
        UserError: it is damaged, lacks a `needed` set, or lists what is not in `folder`.
    """
    return {key: relocated(rows, path, folder) for key, rows in read_pickle(path, needed).items()}


def read_lines(path: str) -> list[Row]:
    """Read a few-shot set of 2SFS.

    Raises:
        UserError: it is no regular file, or a line is not as they are published.
    """
    regular_file(path)
    with open(path, "rb") as opened:
        content = opened.read()
    try:
        found = msgspec.json.Decoder(PublicRow).decode_lines(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = textwrap.shorten(str(error), 200)
        raise UserError(
            f"{path} is not a few-shot set of 2SFS ({reason}); download it again, or delete it to have one drawn"
        ) from error
    return [(row.impath, row.label, row.classname) for row in found]


def relocated(rows: Sequence[Row], path: str, folder: str) -> list[Item]:
    """Rows of a file at `path` that was made on another machine: of their paths the part after the name of `folder`.

    Raises:
        UserError: a path that leads elsewhere.
    """
    name, found = os.path.basename(folder), []
    for impath, label, classname in rows:
        _, known, rest = f"/{impath}".replace("\\", "/").rpartition(f"/{name}/")
        if not known:
            raise UserError(f'{path} lists {impath}, which is not in a folder "{name}"; delete it to redraw')
        here = os.path.normpath(os.path.join(folder, rest))
        if not here.startswith(folder + os.sep):
            raise UserError(f"{path} lists {impath}, which leads out of {folder}; delete it to redraw")
        found.append(Item(here, label, classname))
    return found


def check_shots(train: Sequence[Item], shots: int, stem: str) -> None:
    """Refuse a set with more images of a class than shots: it is another one, or was changed.

    Raises:
        UserError: names the class.
    """
    for (_, name), count in Counter((item.label, item.classname) for item in train).items():
        if count > shots:
            raise UserError(
                f'{stem}.* has {count} training images of "{name}", which is no set of {shots} per class; delete it to '
                "have one drawn, or download it again"
            )
