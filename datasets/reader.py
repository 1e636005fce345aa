"""What all datasets share: finding the files, split files, few-shot draws and their caches, checks.

On disk everything is where CoOp has it, so a data folder that CoOp has used works as it is:

    $DATA/<dataset_dir>/<image_dir>/...                    images
    $DATA/<dataset_dir>/split_zhou_<Name>.json             train, val and test, as [path, label, class name]
    $DATA/<dataset_dir>/split_fewshot/shot_16-seed_1.pkl   few-shot images that CoOp has drawn; used as they are
    $DATA/<dataset_dir>/split_fewshot/shot_16-seed_1.json  few-shot images drawn here

The same seed draws the images that CoOp on Dassl draws from the same split file. A split that has to be made is drawn
with one fixed seed, whatever the seed of the run, so that runs that start together agree on it.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence

from dassl.config import cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from promptbias.utils.errors import UserError
from promptbias.utils.files import writing

from .coop_pickle import read_pickle
from .sources import Fetch, Source, source_of
from .splits import DRAWN_BY, Item, Split, seeded, subsample_classes

SPLIT_SEED = 1  # the seed that the family's scripts run first, hence the one that CoOp makes its splits with

for _key, _default in {"SUBSAMPLE_CLASSES": "all", "TEMPLATE": ""}.items():
    if _key not in cfg_default.DATASET:
        cfg_default.DATASET[_key] = _default


def register(dataset: type) -> type:
    """Enter a dataset into Dassl's registry; one that already goes by that name stays."""
    if dataset.__name__ not in DATASET_REGISTRY.registered_names():
        DATASET_REGISTRY.register(dataset)
    return dataset


class FewShotDataset(DatasetBase):
    """Images with a train/val/test split, from which few-shot sets are drawn.

    A subclass names its folders and implements `read_data`. The config says the rest: DATASET.ROOT, DATASET.NUM_SHOTS
    (images per class for training, and at most 4 for validation; -1 for all), DATASET.SUBSAMPLE_CLASSES ("all", "base",
    "new") and SEED.

    Attributes:
        dataset_dir: folder of the dataset, under DATASET.ROOT; absolute in an instance
        image_dir: folder in it that the paths in the split file start from; absolute in an instance
        split_file: name of the file that keeps the split; "" where the annotation itself says it
        same_names: whether two classes may go by the same name
        test_is_val: whether the test set is validated on, where there is no validation set

    Raises:
        UserError: files that are missing, empty or contradict each other; shots or class group that do not exist.
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
            self.check_classes(train, test)
        train, val, test = subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        train, val, test = self.data(train), self.data(val), self.data(test)
        super().__init__(train_x=train, val=test if self.test_is_val else val, test=test)

    def locate(self, cfg) -> None:
        """Make the folders absolute, and sure that the images are there."""
        self.dataset_dir = os.path.abspath(os.path.join(os.path.expanduser(cfg.DATASET.ROOT), self.dataset_dir))
        self.image_dir = os.path.abspath(os.path.join(self.dataset_dir, self.image_dir))
        self.find_images()

    def find_images(self) -> None:
        if not os.path.isdir(self.image_dir):
            raise self.missing(self.image_dir)

    def read_data(self) -> Split:
        """Train, val and test as the annotation has them, or drawn from `random`; called where no split file is."""
        raise NotImplementedError

    # ---- the split

    def split(self) -> Split:
        """Train, val and test: from the split file, which is written if it was not there."""
        path = os.path.join(self.dataset_dir, self.split_file)
        kept = self.split_file and os.path.exists(path)
        if kept:
            train, val, test = self.read_split(path)
        else:
            with seeded(SPLIT_SEED):
                train, val, test = self.read_annotation()
        self.check_classes(train, test)
        if self.split_file and not kept:
            self.say_that_it_is_drawn()
            sets = {"train": train, "val": val, "test": test}
            self.keep(
                path, {DRAWN_BY: "promptbias", **{key: _rows(items, self.image_dir) for key, items in sets.items()}}
            )
        return train, val, test

    def say_that_it_is_drawn(self) -> None:
        """A line on stderr where CoOp has a split file, which was not there."""
        name, source = source_of(type(self).__name__) or ("", None)
        if source and self.split_fetch(source):
            print(
                f"{self.split_file} was not there: a split of the same sizes is drawn, which is not CoOp's; `python -m "
                f"datasets.prepare {name} --root {os.path.dirname(self.dataset_dir)}` fetches CoOp's",
                file=sys.stderr,
            )

    def split_fetch(self, source: Source) -> Fetch | None:
        """Where CoOp's split file comes from, if it has one."""
        return next(
            (fetch for fetch in source.fetches if self.split_file and fetch.file.endswith(self.split_file)), None
        )

    def read_annotation(self) -> Split:
        """`read_data`, whose failures become one sentence."""
        try:
            return self.read_data()
        except FileNotFoundError as error:
            raise self.missing(error.filename) from error
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            raise UserError(
                f"the annotation files of {type(self).__name__} in {self.dataset_dir} are not as published "
                f"({type(error).__name__}: {error}); fetch them again"
            ) from error

    def read_split(self, path: str) -> Split:
        """A split file in CoOp's format."""
        print(f"Split: {path}")
        try:
            with open(path, encoding="utf-8") as file:
                sets = json.load(file)
            train, val, test = (_items(sets[key], self.image_dir) for key in ("train", "val", "test"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read as a split ({type(error).__name__}: {error}); delete it to have a split made, "
                "or fetch it again"
            ) from error
        return train, val, test

    # ---- few shots

    def few_shot(self, train: list[Item], val: list[Item], shots: int, seed: int) -> tuple[list[Item], list[Item]]:
        """`shots` images of each class for training and at most 4 for validation: CoOp's cache, ours, or a new draw.

        Ours remembers the split that it was drawn from and is drawn anew when that has changed; CoOp's cannot.
        """
        stem = os.path.join(self.dataset_dir, "split_fewshot", f"shot_{shots}-seed_{seed}")
        if os.path.exists(stem + ".pkl"):
            print(f"Few-shot images: {stem}.pkl")
            sets = self.read_coop(stem + ".pkl", "train")
            return sets["train"], sets.get("val", val)

        drawn_from = hashlib.sha256(json.dumps([_rows(s, self.dataset_dir) for s in (train, val)]).encode()).hexdigest()
        kept = _read_kept(stem + ".json", drawn_from, self.dataset_dir)
        if kept:
            print(f"Few-shot images: {stem}.json")
            return kept
        with seeded(seed):
            train = self.generate_fewshot_dataset(train, num_shots=shots)
            val = self.generate_fewshot_dataset(val, num_shots=min(shots, 4))
        rows = {key: _rows(items, self.dataset_dir) for key, items in (("train", train), ("val", val))}
        self.keep(stem + ".json", {"drawn_from": drawn_from, **rows})
        return train, val

    def read_coop(self, path: str, *needed: str) -> dict[str, list[Item]]:
        """A cache of CoOp's as {"train": [Item, ...], ...}, its paths moved to where the dataset is now.

        CoOp stores absolute paths, which may be those of another machine: what comes after the dataset's folder counts.
        """
        folder = os.path.basename(self.dataset_dir)
        sets = {}
        for key, rows in read_pickle(path, needed).items():
            sets[key] = []
            for impath, label, classname in rows:
                _, found, rest = impath.replace("\\", "/").rpartition(f"/{folder}/")
                if not found:
                    raise UserError(f'{path} names {impath}, which is in no folder "{folder}"; delete it to draw anew')
                sets[key].append(Item(os.path.join(self.dataset_dir, rest), label, classname))
        return sets

    def keep(self, path: str, content: dict) -> None:
        """Write a cache; a data folder that cannot be written to is no reason to stop."""
        try:
            with writing(path) as file:
                file.write(json.dumps(content))
            print(f"Wrote {path}")
        except (UserError, OSError):
            print(f"Cannot write {path}; going on without it, it will be drawn the same next time")

    # ---- checks

    def missing(self, path: str) -> UserError:
        """What to say where a file or folder of the dataset is not there."""
        name = type(self).__name__
        root = os.path.dirname(self.dataset_dir)
        message = f"{name} is not complete: looked for {path}, which is not there"
        found = source_of(name)
        if not found:
            return UserError(f"{message}; DATASET.ROOT (--root; DATA of the scripts) says where to look")
        short, source = found
        address, where = source.fetches[0].url or source.page, source.layout
        split = self.split_fetch(source)
        if (
            split and path != self.image_dir and os.path.isdir(self.image_dir)
        ):  # an annotation, instead of which a split will do
            address, where = split.url, split.file
        return UserError(
            f"{message}; run `python -m datasets.prepare {short} --root {root}`, or take it from {address} and put it "
            f"where CoOp does ({os.path.join(root, where)}); the dataset `digits` needs nothing"
        )

    def check_classes(self, train: Sequence[Item], test: Sequence[Item]) -> None:
        """Every class has training and test images and one name of its own, and no image is in both sets."""
        where = f"{type(self).__name__} in {self.dataset_dir}"
        names = {}
        for item in (*train, *test):
            if names.setdefault(item.label, item.classname) != item.classname:
                raise UserError(
                    f'{where}: class {item.label} is called both "{names[item.label]}" and "{item.classname}" '
                    f"({item.impath}); correct its split file"
                )
        if not names:
            raise self.missing(os.path.join(self.image_dir, "*"))
        for items, kind in ((train, "training"), (test, "test")):
            lacking = sorted(set(range(max(names) + 1)) - {item.label for item in items})
            if lacking:
                name = names.get(lacking[0], lacking[0])
                raise UserError(
                    f'{where}: class "{name}" has no {kind} image; add images and delete the split file, or correct it'
                )
        if not self.same_names and len(set(names.values())) < len(names):
            first = {}
            for label, name in sorted(names.items()):
                if first.setdefault(name, label) != label:
                    raise UserError(f'{where}: classes {first[name]} and {label} are both called "{name}"; rename one')
        both = {item.impath for item in train}.intersection(item.impath for item in test)
        if both:
            raise UserError(
                f"{where}: {min(both)} is both a training and a test image; a few-shot cache of another split, "
                "perhaps: delete it"
            )

    def data(self, items: Sequence[Item]) -> list[Datum]:
        """Items as Dassl wants them; each must be a file."""
        gone = next((item for item in items if not os.path.isfile(item.impath)), None)
        if gone:
            raise UserError(
                f"{type(self).__name__}: {gone.impath} is named in the split and is not there; fetch the images again, "
                f"or delete the split file and split_fewshot/ in {self.dataset_dir} to have new ones made"
            )
        return [Datum(impath=item.impath, label=item.label, classname=item.classname) for item in items]


def _rows(items: Sequence[Item], folder: str) -> list[tuple[str, int, str]]:
    """Items with paths relative to `folder`, as a JSON file keeps them."""
    skip = len(folder) + 1
    return [(item.impath[skip:].replace(os.sep, "/"), item.label, item.classname) for item in items]


def _items(rows: Sequence[Sequence], folder: str) -> list[Item]:
    return [Item(os.path.join(folder, path), int(label), str(name)) for path, label, name in rows]


def _read_kept(path: str, drawn_from: str, folder: str) -> tuple[list[Item], list[Item]] | None:
    """Few-shot images kept earlier; None if there are none, from this split, in one piece."""
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        if kept["drawn_from"] == drawn_from:
            return _items(kept["train"], folder), _items(kept["val"], folder)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
