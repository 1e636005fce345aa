"""Results of finished runs: each seed, and mean ± standard deviation over seeds. Needs no torch.

The standard deviation is that of the seeds themselves (divided by their number, not by one less), as this family's
result parser computes it.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from promptbias.engine import run_folder
from promptbias.utils.errors import UserError

METRICS = {"accuracy": "accuracy %", "macro_f1": "macro-F1 %"}
Results = dict[str, Any]  # what results.json holds


def read_results(folder: str) -> Results:
    """`results.json` of the run in `folder`.

    Raises:
        UserError: there is no run, it is not finished, or the file is damaged.
    """
    try:
        return run_folder.read_results(folder)
    except FileNotFoundError as error:
        if os.path.exists(os.path.join(folder, run_folder.CONFIG)):
            raise UserError(f"the run in {folder} is not finished; the command that started it resumes it") from error
        raise UserError(
            f"there is no run in {folder} ({error.filename} is missing); train first, or check the folder"
        ) from error


def seeds_in(folder: str) -> list[int]:
    """The seeds k of the folders seed<k> in `folder`, in order.

    Raises:
        UserError: there are none.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    seeds = sorted(int(match.group(1)) for match in map(re.compile(r"seed(\d+)").fullmatch, names) if match)
    if not seeds:
        raise UserError(f"there is no folder seed1, seed2, ... in {folder}; train first, or check the folder")
    return seeds


def read_seeds(folder: str, seeds: Sequence[int] | None = None) -> dict[int, Results]:
    """{seed: its results} of the runs in `folder`/seed<k>, by default of all seeds.

    Raises:
        UserError: one of them is missing or not finished.
    """
    return {seed: read_results(os.path.join(folder, f"seed{seed}")) for seed in seeds or seeds_in(folder)}


def read_zero_shot(folder: str, tuned: Iterable[Results]) -> Results:
    """`results.json` of the zero-shot run in `folder`, the baseline of the `tuned` runs.

    Raises:
        UserError: as `read_results`; or one of the tuned runs has another backbone.
    """
    results = read_results(folder)
    for other in tuned:
        backbones = [run.get("backbone") for run in (results, other)]
        if None not in backbones and backbones[0] != backbones[1]:
            raise UserError(
                f'{folder} is not a baseline of these runs: its backbone is "{backbones[0]}", theirs '
                f'"{backbones[1]}"; name a zero-shot run of theirs'
            )
    return results


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and (population) standard deviation."""
    return float(np.mean(values)), float(np.std(values))


def harmonic_mean(base: float, new: float) -> float:
    """2 / (1 / base + 1 / new); 0 if either is.

    >>> harmonic_mean(60.0, 40.0)
    48.0
    """
    return 2 * base * new / (base + new) if base + new else 0.0


def format_mean_std(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± std as text, or a single value as it is.

    >>> format_mean_std([60.0, 62.0])
    '61.0 ± 1.0'
    """
    mean, std = mean_std(values)
    return f"{mean:.{digits}f} ± {std:.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"


def short_names(folders: Sequence[str]) -> list[str]:
    """Folders without the parts that all of them begin or end with.

    >>> short_names(["output/dtd/IVLP/x", "output/eurosat/IVLP/x"])
    ['dtd', 'eurosat']
    """
    parts = [os.path.normpath(folder).split(os.sep) for folder in folders]
    first, last = 0, 0
    while all(len(p) > first + 1 and p[first] == parts[0][first] for p in parts):
        first += 1
    while all(len(p) > first + last + 1 and p[-1 - last] == parts[0][-1 - last] for p in parts):
        last += 1
    return ["/".join(p[first : len(p) - last]) for p in parts]


def table_of_seeds(folder: str, zero_shot: Sequence[str], seeds: Sequence[int] | None) -> str:
    """Zero-shot, each seed, mean ± std."""
    runs = read_seeds(folder, seeds) if folder else {}
    rows = [["zero-shot", *format_metrics([read_zero_shot(path, runs.values())])] for path in zero_shot]
    rows += [[f"seed {seed}", *format_metrics([results])] for seed, results in runs.items()]
    rows += [["mean ± std", *format_metrics(runs.values())]] if runs else []
    return render_table(["", *METRICS.values()], rows)


def table_of_folders(folders: Sequence[str], zero_shot: Sequence[str], seeds: Sequence[int] | None) -> str:
    """Mean ± std of each folder, with its zero-shot run where each has one, and the average over folders."""
    headers = ["", *METRICS.values()]
    groups = [list(read_seeds(folder, seeds).values()) for folder in folders]
    means = [{key: np.mean([results[key] for results in group]) for key in METRICS} for group in groups]
    average = {key: np.mean([mean[key] for mean in means]) for key in METRICS}
    rows = [[name, *format_metrics(group)] for name, group in zip(short_names(folders), groups)]
    rows.append(["average", *format_metrics([average])])
    if len(zero_shot) == len(folders):
        baselines = [read_zero_shot(folder, group)["accuracy"] for folder, group in zip(zero_shot, groups)]
        headers.append("zero-shot accuracy %")
        rows = [[*row, format_mean_std([value])] for row, value in zip(rows, [*baselines, np.mean(baselines)])]
    elif zero_shot:
        baseline = read_zero_shot(zero_shot[0], [run for group in groups for run in group])
        rows.insert(0, ["zero-shot", *format_metrics([baseline])])
    return render_table(headers, rows)


def table_of_base_and_new(folders: Sequence[str], zero_shot: Sequence[str], seeds: Sequence[int] | None) -> str:
    """Accuracy on base and on new classes and their harmonic mean; in the last row that of the two means.

    Raises:
        UserError: as `read_seeds`; or one of the two has a seed that the other lacks.
    """
    base, new = parts = [read_seeds(folder, seeds) for folder in folders]
    for folder, here, other in (folders[0], base, new), (folders[1], new, base):
        for seed in other:
            if seed not in here:
                raise UserError(
                    f"{folder} has no seed{seed}, which the other folder has; run it, or choose with --seeds"
                )
    pairs = {f"seed {seed}": ([base[seed]], [new[seed]]) for seed in base}
    pairs["mean ± std"] = (list(base.values()), list(new.values()))
    if zero_shot:
        baseline, baseline_new = ([read_zero_shot(path, part.values())] for path, part in zip(zero_shot, parts))
        pairs = {"zero-shot": (baseline, baseline_new), **pairs}
    rows = []
    for name, pair in pairs.items():
        accuracies = [[results["accuracy"] for results in runs] for runs in pair]
        rows.append(
            [
                name,
                *map(format_mean_std, accuracies),
                format_mean_std([harmonic_mean(*(mean_std(values)[0] for values in accuracies))]),
            ]
        )
    return render_table(["accuracy %", "base", "new", "harmonic mean"], rows)


def format_metrics(runs: Iterable[Results]) -> list[str]:
    """Mean ± std of each of METRICS over some runs, as text."""
    runs = list(runs)
    return [format_mean_std([results[key] for results in runs]) for key in METRICS]


def render_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal, its numbers aligned to the right."""
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))
