"""The runs of the arena: perform what is missing, choose learning rates on validation images, read what came out."""

import argparse
from collections.abc import Sequence

import numpy as np

from promptbias.experiments.arena import (
    BASE,
    EVERY,
    NEW,
    TRAINED,
    Arena,
    Contestant,
    choose,
    outcomes,
    published_accuracy,
    seconds_per_step,
)
from promptbias.experiments.paper import Absent
from promptbias.experiments.results import Results
from promptbias.experiments.runs import Run
from promptbias.utils.errors import UserError

from .arena_entries import Entry, Found
from .table import divergence_line, perform_missing

Key = tuple[Contestant, str]  # a method, and the group of classes that it is trained or tested on
Rates = dict[Key, dict[float, float]]  # -> learning rate -> mean accuracy on validation images


def perform_all(groups: dict, args: argparse.Namespace) -> tuple[dict[Run, Results], set[Run]]:
    """`perform_missing` of one dataset.

    Returns:
        The results of the finished runs, and the runs that diverged.

    Raises:
        UserError: a run failed for another reason.
    """
    done, diverged, failed = perform_missing(groups, args)
    for run, message in diverged.items():
        print(divergence_line(run, message))
    for dataset, message in failed.items():
        raise UserError(f"{dataset}: {message}")
    return done, set(diverged)


def validate(
    arena: Arena, contestants: Sequence[Contestant], groups: Sequence[str], args: argparse.Namespace
) -> tuple[Rates, dict[Run, Results]]:
    """Train with every seed at every learning rate, each tested on the validation images of its classes.

    Returns:
        Mean accuracies (NaN: a training diverged) of the methods whose runs are complete; and the trainings.
    """
    budget = arena.budget()
    runs = {
        (contestant, group, rate): [arena.training(contestant, group, rate, seed, budget) for seed in arena.seeds]
        for contestant in contestants
        if contestant.trains
        for group in groups
        for rate in arena.rates(contestant)
    }
    done, diverged = perform_all(runs, args)
    found: Rates = {}
    for (contestant, group, rate), of_seeds in runs.items():
        accuracies = [done[run]["accuracy"] if run in done else np.nan for run in of_seeds]
        found.setdefault((contestant, group), {})[rate] = float(np.mean(accuracies))
        if not all(run in done or run in diverged for run in of_seeds):
            found[contestant, group] = {}
    complete = {key: len(arena.rates(key[0])) for key in found}
    return {key: means for key, means in found.items() if len(means) == complete[key]}, done


def perform(arena: Arena, contestants: Sequence[Contestant], groups: Sequence[str], args: argparse.Namespace) -> Found:
    """Perform what is missing on one dataset and read all of it; methods that are not complete are left out."""
    rates, trained = validate(arena, contestants, [group for group in TRAINED if group in groups], args)
    budget = arena.budget()
    tests: dict[Key, list[Run]] = {}
    for contestant in contestants:
        for group in groups:
            rate = choose(rates.get((contestant, BASE if group == NEW else group), {})) if contestant.trains else 0.0
            seeds = arena.seeds if contestant.trains else (1,)
            if rate is not None:
                tests[contestant, group] = [arena.test(contestant, group, rate, seed, budget) for seed in seeds]
    tested, _ = perform_all(tests, args)
    entries = []
    for contestant in contestants:
        runs = {group: tests.get((contestant, group), []) for group in groups}
        if all(of_group and all(run in tested for run in of_group) for of_group in runs.values()):
            own = {group: rates[contestant, group] for group in TRAINED if (contestant, group) in rates}
            entries.append(read_entry(arena, contestant, own, {g: [(r, tested[r]) for r in runs[g]] for g in runs}))
            add_times(entries[-1], arena, budget, trained)
    return Found(arena, entries)


def read_entry(
    arena: Arena,
    contestant: Contestant,
    rates: dict[str, dict[float, float]],
    tests: dict[str, list[tuple[Run, Results]]],
) -> Entry:
    """What a method's finished runs on the test images say."""
    from promptbias.engine.load import load_model
    from promptbias.methods_table import inference_cost

    run, of_all = tests[EVERY][0][0], [results for _, results in tests[EVERY]]
    model = load_model(run.model_dir or run.folder)
    chosen = {group: rate for group, means in rates.items() if (rate := choose(means)) is not None}
    return Entry(
        contestant,
        rates,
        chosen,
        {group: outcomes([run.folder for run, _ in runs]).mean(0) for group, runs in tests.items()},
        [results["macro_f1"] for results in of_all],
        model.adapters.trainable_parameters,
        inference_cost(model),
        model.method.folds,
        test=float(np.median([1000 * found["seconds"]["test"] / found["counts"]["test"] for found in of_all])),
        published=published_accuracy(contestant, arena.dataset) if arena.shots == 16 else Absent.MISSING,
    )


def add_times(entry: Entry, arena: Arena, budget: Sequence[str], trained: dict[Run, Results]) -> None:
    """Seconds of the trainings on all classes at the learning rate that was chosen: medians over seeds."""
    if EVERY in entry.chosen:
        runs = [arena.training(entry.contestant, EVERY, entry.chosen[EVERY], seed, budget) for seed in arena.seeds]
        entry.step = float(np.median([seconds_per_step(run, trained[run]) for run in runs]))
        entry.train = float(np.median([trained[run]["seconds"]["train"] for run in runs]))
