"""Methods on equal terms: the same splits, budget and augmentation; learning rates chosen on validation images.

Each method is trained at every learning rate of its grid with every seed, and tested on the validation images of the
few-shot split (at most four of each class). The rate of the best mean over seeds is its own, and only what was trained
at that rate is ever tested on the test images.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptbias.engine.predictions import PREDICTIONS, read_predictions
from promptbias.experiments import layout
from promptbias.experiments.paper import DATASETS, Absent, published
from promptbias.experiments.results import Results, read_results
from promptbias.experiments.runs import Run
from promptbias.utils.errors import UserError

GRID = (0.2, 1.0, 5.0)  # factors of the learning rate of a configuration
EVERY, BASE, NEW = "all", "base", "new"  # groups of classes, as DATASET.SUBSAMPLE_CLASSES has them
TRAINED = (EVERY, BASE)
REFERENCE = "BiasTuning"  # the method whose configuration says the budget of all
BUDGET = ("OPTIM.MAX_EPOCH", "DATALOADER.TRAIN_X.BATCH_SIZE", "INPUT.TRANSFORMS")
PUBLISHED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "published_methods.json")
# Configurations that Table 1 of the paper has numbers of.
IN_TABLE_1 = {
    ("ZeroshotCLIP", "vit_b16"): "CLIP",
    ("IVLP", "vit_b16_prompt"): "PROMPT",
    ("BiasTuning", "vit_b16"): "BIAS",
    ("IVLP", "vit_b16_optimal"): "OPTIMAL",
}


@dataclass(frozen=True)
class Contestant:
    """A method with one configuration, on the backbone of one dataset.

    Attributes:
        method, cfg: names of a folder in configs/trainers/ and of a YAML in it.
        name: how it was named: "METHOD" or "METHOD:CFG".
    """

    method: str
    cfg: str
    name: str

    @property
    def trains(self) -> bool:
        return self.method != layout.ZERO_SHOT


def find_contestant(name: str, dataset: str) -> Contestant:
    """The method called "METHOD", with its default configuration, or "METHOD:CFG".

    Raises:
        UserError: no such method or configuration.
    """
    method, _, cfg = name.partition(":")
    method = layout.find_method(method)
    cfg = layout.find_cfg(method, dataset, cfg) if cfg else layout.default_cfg(method, dataset)
    return Contestant(method, cfg, f"{method}:{name.partition(':')[2]}" if ":" in name else method)


@dataclass(frozen=True)
class Arena:
    """One dataset, and all that is the same for all methods on it.

    Attributes:
        shots: images per class.
        grid: factors of each configuration's learning rate.
        data, output: folders of the datasets and of the runs.
        extra: KEY VALUE pairs for every run, on top of the budget.
    """

    dataset: str
    shots: int
    seeds: tuple[int, ...]
    grid: tuple[float, ...]
    data: str
    output: str
    extra: tuple[str, ...] = ()

    def budget(self) -> tuple[str, ...]:
        """Epochs, batch size and augmentation of every method, as KEY VALUE pairs: those of REFERENCE."""
        contestant = find_contestant(REFERENCE, self.dataset)
        cfg: Any = Run(contestant.method, self.dataset, contestant.cfg, "", 1, self.data, self.extra).config()
        values = {key: _value(cfg, key) for key in BUDGET}
        return tuple(word for key, value in values.items() for word in (key, str(value)))

    def rates(self, contestant: Contestant) -> list[float]:
        """The learning rates of a method's grid, the smallest first."""
        run = Run(contestant.method, self.dataset, contestant.cfg, "", 1, self.data)
        rate = run.config().OPTIM.LR
        return sorted({float(f"{rate * factor:.6g}") for factor in self.grid})

    def folder(self, contestant: Contestant, kind: str) -> str:
        name = f"{contestant.cfg}_{self.shots}shots" if contestant.trains else contestant.cfg
        return os.path.join(self.output, "arena", self.dataset, contestant.method, name, kind)

    def training(self, contestant: Contestant, group: str, rate: float, seed: int, budget: Sequence[str]) -> Run:
        """The run that trains on the classes of a group and is tested on their validation images."""
        return self._run(contestant, f"{group}_lr{rate:g}", group, seed, (*budget, "OPTIM.LR", str(rate)), "val")

    def test(self, contestant: Contestant, group: str, rate: float, seed: int, budget: Sequence[str]) -> Run:
        """The run that tests, on the test images of a group, what was trained on it, or on BASE where it is NEW."""
        if not contestant.trains:
            return self._run(contestant, group, group, 1, (), "test")
        trained = self.training(contestant, BASE if group == NEW else group, rate, seed, budget)
        pairs = (*budget, "OPTIM.LR", str(rate))
        return self._run(contestant, f"{group}_lr{rate:g}_test", group, seed, pairs, "test", trained.folder)

    def _run(
        self,
        contestant: Contestant,
        kind: str,
        group: str,
        seed: int,
        pairs: Sequence[str],
        split: str,
        model: str = "",
    ) -> Run:
        folder = self.folder(contestant, kind)
        folder = os.path.join(folder, f"seed{seed}") if contestant.trains else folder
        said = ("DATASET.NUM_SHOTS", str(self.shots), "DATASET.SUBSAMPLE_CLASSES", group, "TEST.SPLIT", split)
        options = (*said, *self.extra, *pairs)
        return Run(contestant.method, self.dataset, contestant.cfg, folder, seed, self.data, options, model)


def _value(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def check_validation(dataset: str, grid: Sequence[float]) -> None:
    """Refuse to choose learning rates where the validation images are the test images.

    Raises:
        UserError: they are, and the grid has more than one.
    """
    from promptbias.engine.discovery import register_all

    register_all()
    from dassl.data.datasets import DATASET_REGISTRY

    from promptbias.utils.yaml_files import read_yaml

    name = read_yaml(layout.dataset_file(dataset))["DATASET"]["NAME"]
    if len(set(grid)) > 1 and getattr(DATASET_REGISTRY.get(name), "test_is_val", False):
        raise UserError(
            f"{dataset} has no validation images of its own, and no learning rate may be chosen on its test images; "
            "leave it out, or give --grid 1"
        )


def choose(means: Mapping[float, float]) -> float | None:
    """The learning rate with the best mean accuracy on validation images, the smallest of several; None: none trained.

    Args:
        means: learning rate -> mean accuracy over seeds; NaN where a training diverged.

    >>> choose({0.1: 65.0, 0.2: 65.0, 0.4: math.nan})
    0.1
    """
    known = {rate: mean for rate, mean in means.items() if not math.isnan(mean)}
    return min(known, key=lambda rate: (-known[rate], rate), default=None)


def outcomes(folders: Sequence[str]) -> np.ndarray:
    """Which of I test images each run got right, in the same order: (runs, I), 0 or 1.

    Raises:
        UserError: they were not tested on the same images, or the predictions of one are not those of its results.
    """
    right = [right_of(folder) for folder in folders]
    for folder, found in zip(folders, right):
        if found.keys() != right[0].keys():
            raise UserError(f"{folder} was not tested on the same images as {folders[0]}; remove it and run again")
    paths = sorted(right[0])
    return np.array([[found[path] for path in paths] for found in right], float)


def right_of(folder: str) -> dict[str, bool]:
    """Path of each test image -> whether the run in `folder` got it right.

    Raises:
        UserError: the predictions do not have the number of images and the accuracy that the run's results have.
    """
    rows, results = list(read_predictions(folder)), read_results(folder)
    right = {row.path: row.true == row.predicted for row in rows}
    complete = 0 < len(rows) == len(right) == (results.get("counts") or {}).get("test")
    if not complete or abs(100 * sum(right.values()) / len(right) - results["accuracy"]) > 1e-6:
        raise UserError(
            f"{os.path.join(folder, PREDICTIONS)} holds other predictions than its results were counted from; remove "
            f"{folder} and run again"
        )
    return right


def seconds_per_step(run: Run, results: Results) -> float:
    """Of a training, all of it divided by its steps: loading, augmentation and checkpoints included."""
    cfg: Any = run.config()
    steps = max(results["counts"]["train"] // cfg.DATALOADER.TRAIN_X.BATCH_SIZE, 1) * cfg.OPTIM.MAX_EPOCH
    return results["seconds"]["train"] / steps


def published_accuracy(contestant: Contestant, dataset: str) -> float | Absent:
    """The paper's accuracy at 16 shots, in percent."""
    column = IN_TABLE_1.get((contestant.method, contestant.cfg))
    return published(1)(column, dataset) if column and dataset in DATASETS else Absent.MISSING


def published_base_to_new(methods: Sequence[str]) -> list[dict[str, Any]]:
    """Published means over the eleven datasets from base to new classes, of these methods: entries of the data file."""
    with open(PUBLISHED, encoding="utf-8") as file:
        return [entry for entry in json.load(file)["base_to_new"] if entry["method"] in methods]
