"""What runs came to: each seed, and mean ± standard deviation over seeds. Needs no torch.

The standard deviation is that of the seeds themselves (divided by their number, not by one less), as this family's result
parser computes it.
"""

import argparse
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from promptbias.engine.run_folder import CONFIG, RESULTS
from promptbias.utils.errors import UserError

METRICS = {"accuracy": "accuracy %", "macro_f1": "macro-F1 %"}
Results = dict[str, Any]  # what results.json holds


def read_results(folder: str) -> Results:
    """`results.json` of the run in `folder`.

    Raises:
        UserError: there is no run, it is not finished, or the file is damaged.
    """
    path = os.path.join(folder, RESULTS)
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        return {**results, **{key: float(results[key]) for key in METRICS}}
    except FileNotFoundError as error:
        if os.path.exists(os.path.join(folder, CONFIG)):
            raise UserError(
                f"the run in {folder} is not finished; the command that began it goes on with it"
            ) from error
        raise UserError(f"{folder} holds no run ({path} is missing); train first, or check the folder") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); remove it and run again") from error


def seeds_in(folder: str) -> list[int]:
    """The seeds that `folder` has a folder seed<k> of, in order.

    Raises:
        UserError: none.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    seeds = sorted(int(match.group(1)) for match in map(re.compile(r"seed(\d+)").fullmatch, names) if match)
    if not seeds:
        raise UserError(f"{folder} holds no folder seed1, seed2, ...; train first, or check the folder")
    return seeds


def read_seeds(folder: str, seeds: Sequence[int] | None = None) -> dict[int, Results]:
    """{seed: its results} of the runs in `folder`/seed<k>, by default of all that are there.

    Raises:
        UserError: one of them is missing or not finished.
    """
    return {seed: read_results(os.path.join(folder, f"seed{seed}")) for seed in seeds or seeds_in(folder)}


def read_zero_shot(folder: str, beside: Iterable[Results]) -> Results:
    """`results.json` of the zero-shot run in `folder`, to be shown beside the results of other runs.

    Raises:
        UserError: as `read_results`; or one of those has another backbone.
    """
    results = read_results(folder)
    for other in beside:
        backbones = [run.get("backbone") for run in (results, other)]
        if None not in backbones and backbones[0] != backbones[1]:
            raise UserError(
                f'{folder} cannot stand beside these runs: its backbone is "{backbones[0]}", theirs '
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


def spread(values: Sequence[float]) -> str:
    """Mean ± std as text, or a single value as it is.

    >>> spread([60.0, 62.0])
    '61.0 ± 1.0'
    """
    mean, std = mean_std(values)
    return f"{mean:.1f} ± {std:.1f}" if len(values) > 1 else f"{mean:.1f}"


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
    rows = [["zero-shot", *cells([read_zero_shot(path, runs.values())])] for path in zero_shot]
    rows += [[f"seed {seed}", *cells([results])] for seed, results in runs.items()]
    rows += [["mean ± std", *cells(runs.values())]] if runs else []
    return draw(["", *METRICS.values()], rows)


def table_of_folders(folders: Sequence[str], zero_shot: Sequence[str], seeds: Sequence[int] | None) -> str:
    """Mean ± std of each folder, beside its zero-shot run where each has one, and the average over folders."""
    headers = ["", *METRICS.values()]
    groups = [list(read_seeds(folder, seeds).values()) for folder in folders]
    means = [{key: np.mean([results[key] for results in group]) for key in METRICS} for group in groups]
    average = {key: np.mean([mean[key] for mean in means]) for key in METRICS}
    rows = [[name, *cells(group)] for name, group in zip(short_names(folders), groups)] + [
        ["average", *cells([average])]
    ]
    if len(zero_shot) == len(folders):
        plain = [read_zero_shot(folder, group)["accuracy"] for folder, group in zip(zero_shot, groups)]
        headers.append("zero-shot accuracy %")
        rows = [[*row, spread([value])] for row, value in zip(rows, [*plain, np.mean(plain)])]
    elif zero_shot:
        rows.insert(
            0, ["zero-shot", *cells([read_zero_shot(zero_shot[0], [run for group in groups for run in group])])]
        )
    return draw(headers, rows)


def table_of_base_and_new(folders: Sequence[str], zero_shot: Sequence[str], seeds: Sequence[int] | None) -> str:
    """Accuracy on base and on new classes and their harmonic mean; in the last row that of the two means.

    Raises:
        UserError: as `read_seeds`; or one of the two has a seed that the other lacks.
    """
    base, new = parts = [read_seeds(folder, seeds) for folder in folders]
    for folder, there, here in (folders[0], new, base), (folders[1], base, new):
        for seed in there:
            if seed not in here:
                raise UserError(
                    f"{folder} has no seed{seed}, which the other folder has; run it, or choose with --seeds"
                )
    pairs = {f"seed {seed}": ([base[seed]], [new[seed]]) for seed in base}
    pairs["mean ± std"] = (base.values(), new.values())
    if zero_shot:
        plain = [[read_zero_shot(path, part.values())] for path, part in zip(zero_shot, parts)]
        pairs = {"zero-shot": plain, **pairs}
    rows = []
    for name, pair in pairs.items():
        accuracies = [[results["accuracy"] for results in runs] for runs in pair]
        rows.append([name, *map(spread, accuracies), spread([harmonic_mean(*map(np.mean, accuracies))])])
    return draw(["accuracy %", "base", "new", "harmonic mean"], rows)


def cells(runs: Iterable[Results]) -> list[str]:
    """The METRICS of some runs, as text."""
    runs = list(runs)
    return [spread([results[key] for results in runs]) for key in METRICS]


def draw(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))


def add_output(parser: argparse.ArgumentParser, more: str) -> None:
    """--output, of commands that look for runs where `scripts/` put them."""
    parser.add_argument(
        "--output",
        default=os.environ.get("OUTPUT") or "output",
        metavar="DIR",
        help=f"where the runs are; {more} (default: $OUTPUT, else output)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", metavar="RUNS", help="folder of runs seed1, seed2, ...; of several, one row each"
    )
    parser.add_argument(
        "--zero-shot", nargs="+", default=[], metavar="DIR", help="a zero-shot run, or one for each RUNS"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="K", help="which (default: all that are there)")
    parser.add_argument(
        "--base-new",
        action="store_true",
        help="RUNS are two folders, tested on base and on new classes: adds the harmonic mean",
    )


def main(args: argparse.Namespace) -> None:
    """Raises:
    UserError: a run is missing or not finished, or the folders do not go together.
    """
    folders, zero_shot = args.runs, args.zero_shot
    if not (folders or zero_shot):
        raise UserError("name a folder of runs, or a zero-shot run after --zero-shot")
    if args.base_new and len(folders) != 2:
        raise UserError(f"--base-new takes two folders, of base and of new classes; {len(folders)} are named")
    fitting = (0, 2) if args.base_new else (0, 1, len(folders))
    if len(zero_shot) not in fitting:
        raise UserError(
            f"{len(zero_shot)} zero-shot runs do not go with {len(folders)} folders of runs; "
            f"name {' or '.join(map(str, sorted(set(fitting))))}"
        )
    if args.base_new:
        print(table_of_base_and_new(folders, zero_shot, args.seeds))
    elif len(folders) > 1:
        print(table_of_folders(folders, zero_shot, args.seeds))
    else:
        print(table_of_seeds(folders[0] if folders else "", zero_shot, args.seeds))
