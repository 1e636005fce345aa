"""What all datasets share: locating the files, reading and writing splits, drawing and caching few-shot sets, checks.

The layout on disk is CoOp's, so that a data folder that CoOp has used works unchanged:

    $DATA/<dataset_dir>/<image_dir>/...                    images
    $DATA/<dataset_dir>/split_zhou_<Name>.json             train, val and test, as [path, label, class name]
    $DATA/<dataset_dir>/split_fewshot/shot_16-seed_1.pkl   few-shot images drawn by CoOp; used as they are
    $DATA/<dataset_dir>/split_fewshot/shot_16-seed_1.json  few-shot images drawn here

The two JSON files, where they were written here, carry a checksum of their rows (see split_files.py).

A seed draws the same images as CoOp on Dassl from the same split file. A missing split is drawn with one fixed seed,
regardless of the seed of the run, so that runs that start at the same time agree on it.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence

import msgspec
from dassl.config import cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write, regular_file

from . import drawn_elsewhere, split_files
from .fetches import PREPARE, Fetch, Source
from .sources import source_of
from .split_files import FewShotFile, NotSuchAFile, SplitFile
from .splits import Item, Split, check_encoding, check_split, seeded, subsample_classes

SPLIT_SEED = 1  # the seed that the family's scripts run first, hence the one with which CoOp draws its splits

for _key, _default in {"SUBSAMPLE_CLASSES": "all", "TEMPLATE": ""}.items():
    if _key not in cfg_default.DATASET:
        cfg_default.DATASET[_key] = _default


def register(dataset: type) -> type:
    """Register a dataset in Dassl's registry, unless its name is already taken."""
    if dataset.__name__ not in DATASET_REGISTRY.registered_names():
        DATASET_REGISTRY.register(dataset)
    return dataset


class FewShotDataset(DatasetBase):
    """Images with a train/val/test split, from which few-shot sets are drawn.

    A subclass names its folders and implements `read_data`. The config provides the rest: DATASET.ROOT,
    DATASET.NUM_SHOTS (images per class for training, and at most 4 for validation; -1 for all),
    DATASET.SUBSAMPLE_CLASSES ("all", "base" or "new") and SEED.

    Attributes:
        dataset_dir: folder of the dataset, under DATASET.ROOT; absolute in an instance
        image_dir: folder in it that the paths in the split file are relative to; absolute in an instance
        split_file: name of the file with the split; "" if the annotation files define it
        same_names: whether two classes may share a name
        test_is_val: whether the test set also serves as the validation set

    Raises:
        UserError: missing, empty or contradictory files; invalid shots or class group.
    """

    dataset_dir = ""
    image_dir = "images"
    split_file = ""
    same_names = False
    test_is_val = False

    def __init__(self, cfg):
        shots = cfg.DATASET.NUM_SHOTS
        if shots < 1 and shots != -1:
            raise UserError(f"DATASET.NUM_SHOTS is {shots}; it must be at least 1, or -1 for all images")
        self.locate(cfg)
        train, val, test = self.split()
        if shots != -1:
            train, val = self.few_shot(train, val, shots, cfg.SEED)
            self.check_classes(train, val, test)
            say_too_few(train, shots)
        train, val, test = subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        train, val, test = self.data(train), self.data(val), self.data(test)
        super().__init__(train_x=train, val=test if self.test_is_val else val, test=test)

    def locate(self, cfg) -> None:
        """Make the folders absolute and check that the images exist."""
        self.dataset_dir = os.path.abspath(os.path.join(os.path.expanduser(cfg.DATASET.ROOT), self.dataset_dir))
        self.image_dir = os.path.abspath(os.path.join(self.dataset_dir, self.image_dir))
        self.find_images()

    def find_images(self) -> None:
        if not os.path.isdir(self.image_dir):
            raise self.missing(self.image_dir)

    def read_data(self) -> Split:
        """Train, val and test from the annotation files, or drawn with `random`; called if there is no split file."""
        raise NotImplementedError

    # ---- the split

    def split(self) -> Split:
        """Train, val and test from the split file, which is written if it does not exist."""
        path = os.path.join(self.dataset_dir, self.split_file)
        kept = self.split_file and os.path.exists(path)
        if kept:
            train, val, test = self.read_split(path)
        else:
            with seeded(SPLIT_SEED):
                train, val, test = self.read_annotation()
        self.check_classes(train, val, test)
        if self.split_file and not kept:
            self.warn_about_drawn_split()
            rows = [split_files.rows(items, self.image_dir) for items in (train, val, test)]
            written = SplitFile(drawn_by="promptbias", train=rows[0], val=rows[1], test=rows[2])
            self.write_cache(path, split_files.content_of(written))
        return train, val, test

    def warn_about_drawn_split(self) -> None:
        """Print a line on stderr if CoOp has a split file for this dataset, which was not found."""
        name, source = source_of(type(self).__name__) or ("", None)
        if source and self.split_fetch(source):
            print(
                f"{self.split_file} does not exist: a split of the same sizes is drawn, which is not CoOp's; "
                f"`{PREPARE} {name} --root {os.path.dirname(self.dataset_dir)}` downloads CoOp's",
                file=sys.stderr,
            )

    def split_fetch(self, source: Source) -> Fetch | None:
        """The download of CoOp's split file, if there is one."""
        return next(
            (fetch for fetch in source.fetches if self.split_file and fetch.file.endswith(self.split_file)), None
        )

    def read_annotation(self) -> Split:
        """`read_data`, with its failures as UserError."""
        try:
            split = self.read_data()
        except FileNotFoundError as error:
            raise self.missing(error.filename) from error
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, IndexError, TypeError, msgspec.DecodeError) as error:
            raise UserError(
                f"the annotation files of {type(self).__name__} in {self.dataset_dir} are not as published "
                f"({type(error).__name__}: {error}); download them again"
            ) from error
        check_encoding(item for items in split for item in items)
        return split

    def read_split(self, path: str) -> Split:
        """Read a split file in CoOp's format."""
        print(f"Split: {path}")
        try:
            file = split_files.read(path, SplitFile)
            train, val, test = (split_files.items(rows, self.image_dir) for rows in (file.train, file.val, file.test))
        except (OSError, NotSuchAFile) as error:
            raise UserError(
                f"{path} is not a split file ({error}); delete it to have a split drawn, or download it again"
            ) from error
        return train, val, test

    # ---- few shots

    def few_shot(self, train: list[Item], val: list[Item], shots: int, seed: int) -> tuple[list[Item], list[Item]]:
        """`shots` images of each class for training and at most 4 for validation: CoOp's cache, 2SFS's public set, our
        cache, or a new draw.

        Our cache stores a hash of the split that it was drawn from and is redrawn if the split changes; those of others
        are not.
        """
        stem = os.path.join(self.dataset_dir, "split_fewshot", f"shot_{shots}-seed_{seed}")
        others = drawn_elsewhere.find(stem, self.dataset_dir)
        if others:
            drawn_elsewhere.check_shots(others["train"], shots, stem)
            return others["train"], others.get("val", val)

        rows = [split_files.rows(items, self.dataset_dir) for items in (train, val)]
        drawn_from = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        kept = self.cached_few_shot(stem + ".json", drawn_from)
        if kept:
            print(f"Few-shot images: {stem}.json")
            return kept
        with seeded(seed):
            train = self.generate_fewshot_dataset(train, num_shots=shots)
            val = self.generate_fewshot_dataset(val, num_shots=min(shots, 4))
        rows = [split_files.rows(items, self.dataset_dir) for items in (train, val)]
        written = FewShotFile(drawn_from=drawn_from, train=rows[0], val=rows[1])
        self.write_cache(stem + ".json", split_files.content_of(written))
        return train, val

    def cached_few_shot(self, path: str, drawn_from: str) -> tuple[list[Item], list[Item]] | None:
        """Few-shot images drawn earlier; None if there are none, if the file is damaged or if the split has changed."""
        if not os.path.exists(path):
            return None
        try:
            file = split_files.read(path, FewShotFile)
            if file.drawn_from == drawn_from:
                train, val = (split_files.items(rows, self.dataset_dir) for rows in (file.train, file.val))
                return train, val
        except (OSError, NotSuchAFile) as error:
            print(f"{path} is damaged ({error}): its images are drawn again")
        return None

    def write_cache(self, path: str, content: dict) -> None:
        """Write a cache, if the data folder is writable."""
        try:
            with atomic_write(path) as file:
                file.write(json.dumps(content))
            print(f"Wrote {path}")
        except (UserError, OSError):
            print(f"Cannot write {path}; continuing without it, the next run draws the same images")

    # ---- checks

    def missing(self, path: str) -> UserError:
        """The error for a file or folder of the dataset that does not exist."""
        name = type(self).__name__
        root = os.path.dirname(self.dataset_dir)
        message = f"{name} is incomplete: {path} does not exist"
        found = source_of(name)
        if not found:
            return UserError(f"{message}; set DATASET.ROOT (--root, or DATA for the scripts) to the data folder")
        short, source = found
        address, where = source.fetches[0].url or source.page, source.layout
        split = self.split_fetch(source)
        if split and path != self.image_dir and os.path.isdir(self.image_dir):
            address, where = split.url, split.file  # an annotation file is missing, and a split file replaces it
        return UserError(
            f"{message}; run `{PREPARE} {short} --root {root}`, or download it from {address} to "
            f"{os.path.join(root, where)}; the dataset `digits` needs no download"
        )

    def check_classes(self, train: Sequence[Item], val: Sequence[Item], test: Sequence[Item]) -> None:
        """Raises UserError unless there are images and the split passes `check_split`."""
        if not (train or test):
            raise self.missing(os.path.join(self.image_dir, "*"))
        check_split(train, val, test, f"{type(self).__name__} in {self.dataset_dir}", self.same_names)

    def data(self, items: Sequence[Item]) -> list[Datum]:
        """Items as Dassl's Datum; each must be an existing file."""
        for item in items:
            try:
                regular_file(item.impath)
            except (UserError, OSError) as error:
                said = f"{item.impath} does not exist" if isinstance(error, OSError) else error
                raise UserError(
                    f"{type(self).__name__}: {said}, but is in the split; download the images again, or delete the "
                    f"split file and split_fewshot/ in {self.dataset_dir} to have them redrawn"
                ) from error
        return [Datum(impath=item.impath, label=item.label, classname=item.classname) for item in items]


def say_too_few(train: Sequence[Item], shots: int) -> None:
    """Print on stderr, in one line, the classes that have fewer training images than shots, if there are any."""
    counts = Counter((item.label, item.classname) for item in train)
    fewer = [f"{name} {count}" for (_, name), count in counts.items() if count < shots]
    if fewer:
        more = f" and {len(fewer) - 10} more" if len(fewer) > 10 else ""
        print(f"Classes with fewer than {shots} training images: {', '.join(fewer[:10])}{more}", file=sys.stderr)
