"""What methods achieved in the arena, and how far they are apart, with intervals over the test images."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from promptbias.experiments.arena import BASE, EVERY, NEW, Arena, Contestant
from promptbias.experiments.paper import Absent
from promptbias.experiments.results import harmonic_mean
from promptbias.interp.paired import bootstrap_means

from .estimates import Estimate

HARMONIC = "harmonic mean"
ACCURACIES = {EVERY: "accuracy", BASE: "base", NEW: "new", HARMONIC: HARMONIC}  # how tables call them


@dataclass
class Entry:
    """What one method achieved on one dataset; rates are in percent.

    Attributes:
        rates: group of classes -> learning rate -> mean accuracy on the validation images; NaN: a training diverged.
        chosen: group -> the learning rate that was chosen; {} for zero-shot CLIP.
        correct: group -> (I,), in how many of the seeds each test image was right, from 0 to 1.
        macro_f1: one for each seed.
        parameters: numbers that are trained.
        inference: what an image costs more than with plain CLIP.
        folds: whether it becomes a stock CLIP.
        step, train: seconds of a training step, and of a whole training; NaN where nothing is trained.
        test: milliseconds of testing per image, reading it included.
        published: the paper's accuracy.
    """

    contestant: Contestant
    rates: dict[str, dict[float, float]]
    chosen: dict[str, float]
    correct: dict[str, np.ndarray]
    macro_f1: list[float]
    parameters: int
    inference: str
    folds: bool
    step: float = math.nan
    train: float = math.nan
    test: float = math.nan
    published: float | Absent = Absent.MISSING

    @property
    def name(self) -> str:
        return self.contestant.name

    def values(self) -> dict[str, float]:
        """Accuracies by ACCURACIES, those that there are."""
        return with_harmonic_mean({group: 100 * correct.mean(-1) for group, correct in self.correct.items()})

    @functools.cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """The same of each bootstrap draw, (R,); the n-th draw is of the same images for all entries."""
        drawn = {group: bootstrap_means(self.correct[group], seed=i) for i, group in enumerate(sorted(self.correct))}
        return with_harmonic_mean({group: 100 * means for group, means in drawn.items()})

    def estimates(self) -> dict[str, Estimate]:
        """Accuracies with 95 % intervals."""
        return {what: Estimate(float(value), interval_of(self.draws[what])) for what, value in self.values().items()}


@dataclass
class Found:
    """What is known of one dataset; the first entry is zero-shot CLIP."""

    arena: Arena
    entries: list[Entry]

    def differences(self) -> dict[tuple[str, str], dict[str, Estimate]]:
        """(a method, one before it) -> by how many points it is ahead, with paired 95 % intervals."""
        return {
            (later.name, earlier.name): {
                what: Estimate(
                    float(value - earlier.values()[what]),
                    interval_of(later.draws[what] - earlier.draws[what]),
                )
                for what, value in later.values().items()
            }
            for earlier, later in combinations(self.entries, 2)
        }


def with_harmonic_mean(found: dict) -> dict:
    """Accuracies, with HARMONIC where base and new are among them; numbers or arrays of one shape."""
    if BASE in found:
        found[HARMONIC] = np.vectorize(harmonic_mean, otypes=[float])(found[BASE], found[NEW])
    return {what: found[what] for what in ACCURACIES if what in found}


def interval_of(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def pareto_front(entries: Sequence[Entry]) -> list[Entry]:
    """Those that no other beats in accuracy with as few or fewer trainable parameters, the smallest first."""
    front: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: (entry.parameters, -float(entry.values()[EVERY]))):
        if not front or entry.values()[EVERY] > front[-1].values()[EVERY]:
            front.append(entry)
    return front
