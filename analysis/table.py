"""`python -m analysis table 1` (2, 3): the paper's tables, measured, beside the published numbers.

Runs what is missing, goes on with what broke, prints the table and writes it as Markdown, CSV and LaTeX.
"""

import argparse
import csv
import io
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from collections.abc import Callable, Sequence

from tabulate import tabulate
from tqdm import tqdm

from promptbias.utils.errors import UserError, nearest
from promptbias.utils.files import atomic_write

from promptbias.experiments.runs import (
    BLOCKS,
    DATASETS,
    DIVERGED,
    Diverged,
    Run,
    Setting,
    bias,
    estimate,
    generic_for,
    plain,
    prompts,
)
from promptbias.experiments.results import Results, add_output, mean_std

AVERAGE = "Average"
FAILED = "–"
MISSING = object()
EMBEDDED = "digits"  # not in the paper

# table -> column of the paper (in Table 3: row) -> its setting on a dataset
METHODS: dict[int, dict[str, Callable[[str], Setting]]] = {
    1: {
        "CLIP": lambda dataset: plain(),
        "CLIP-GENERIC": lambda dataset: plain(generic_for(dataset)),
        "PROMPT": lambda dataset: prompts(1),
        "BIAS": lambda dataset: bias(),
        "BIAS-GENERIC": lambda dataset: bias(generic_for(dataset)),
        "OPTIMAL": lambda dataset: prompts(10),
    },
    2: {
        "CLIP": lambda dataset: plain(),
        **{str(depth): lambda dataset, depth=depth: prompts(4, depth) for depth in range(1, BLOCKS + 1)},
    },
    3: {
        "CLIP": lambda dataset: plain(),
        **{str(both): lambda dataset, both=both: prompts(both // 2) for both in (2, 4, 6, 8, 20, 40, 100)},
    },
}
TITLES = {
    1: "Bias tuning against prompts",
    2: "4+4 prompts, down to so many blocks",
    3: "Number of prompts in both branches together, in all 12 blocks",
}
NOTES = {
    1: 'PROMPT: 1+1 prompts in each block, as many learned numbers as BIAS. OPTIMAL: 10+10. GENERIC: "a photo of a {}." in '
    "place of the dataset's own template, which the paper does not name; beside BIAS-GENERIC stands the published BIAS.",
    2: "",
    3: "",
}


@dataclass(frozen=True)
class Cell:
    """Accuracies of one method on one dataset in percent, and what the paper has there.

    Attributes:
        accuracies: one for each seed; empty where not all of them were run.
        failed: whether the loss of one of the trainings was not finite.
        published: None where the paper has nothing, NaN where it has a failed training.
    """

    accuracies: Sequence[float] = ()
    failed: bool = False
    published: float | None = None

    @property
    def difference(self) -> float | None:
        """Measured mean minus published number, where there are both."""
        if not self.accuracies or self.published is None or math.isnan(self.published):
            return None
        return mean_std(self.accuracies)[0] - self.published

    def text(self, digits: int) -> str:
        """mean ± std [published, difference]; "–" is a failed training."""
        measured = FAILED if self.failed else ""
        if self.accuracies:
            mean, std = mean_std(self.accuracies)
            measured = f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if len(self.accuracies) > 1 else "")
        if self.published is None:
            return measured
        published = FAILED if math.isnan(self.published) else f"{self.published:.{digits}f}"
        beside = published if self.difference is None else f"{published}, {self.difference:+.{digits}f}"
        return f"{measured} [{beside}]".strip()

    def numbers(self) -> list[str]:
        """mean, std, published, difference, each "" where there is none."""
        mean, std = mean_std(self.accuracies) if self.accuracies else (None, None)
        values = [f"{value:.4f}" if value is not None else "" for value in (mean, std, self.published, self.difference)]
        return [FAILED if self.failed else values[0], *(FAILED if value == "nan" else value for value in values[1:])]


def published(number: int) -> Callable[[str, str], float | None]:
    """The numbers of a table of the paper, by method and dataset (or AVERAGE)."""
    with open(os.path.join(os.path.dirname(__file__), "published_tables.json"), encoding="utf-8") as file:
        rows = json.load(file)[f"table{number}"]["rows"]

    def look_up(method: str, dataset: str) -> float | None:
        name = DATASETS[dataset][0] if dataset in DATASETS else dataset
        if number == 1:
            method = {"BIAS-GENERIC": "BIAS"}.get(method, method)
            found = rows.get(name.upper() if dataset == AVERAGE else name, {}).get(method, MISSING)
        elif number == 2:
            row = rows.get(name, {})
            found = {"CLIP": row.get("CLIP", MISSING), **row.get("layers", {})}.get(method, MISSING)
        else:
            found = rows[method].get(name, MISSING)
        return None if found is MISSING else math.nan if found is None else found

    return look_up


Cells = dict[str, dict[str, Cell]]  # dataset -> method -> cell


def average(cells: Cells, methods: Sequence[str], look_up: Callable[[str, str], float | None]) -> dict[str, Cell]:
    """The row of the mean over datasets, each method's only where it was run on all of them."""
    row = {}
    for method in methods:
        means = [mean_std(of[method].accuracies)[0] for of in cells.values() if of[method].accuracies]
        complete = len(means) == len(cells)
        row[method] = Cell([mean_std(means)[0]] if complete else (), published=look_up(method, AVERAGE))
    return row


def oriented(number: int, cells: Cells) -> tuple[str, dict[str, dict[str, Cell]]]:
    """What the first column is called, and row -> column -> cell, as published: Table 3 has its datasets across."""
    named = {DATASETS[dataset][0] if dataset in DATASETS else dataset: row for dataset, row in cells.items()}
    if number != 3:
        return "Dataset", named
    return "Prompts", {
        method: {name: row[method] for name, row in named.items()} for method in next(iter(named.values()))
    }


def as_text(number: int, cells: Cells, style: str) -> str:
    """The table in one of tabulate's styles."""
    corner, rows = oriented(number, cells)
    digits = 1 if number == 1 else 2
    return tabulate(
        [[name, *(cell.text(digits) for cell in row.values())] for name, row in rows.items()],
        [corner, *next(iter(rows.values()))],
        tablefmt=style,
        disable_numparse=True,
    )


def as_csv(number: int, cells: Cells) -> str:
    """Four columns for each one of the table: mean, std, published, difference."""
    corner, rows = oriented(number, cells)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            corner,
            *(
                f"{name} {what}".strip()
                for name in next(iter(rows.values()))
                for what in ("", "std", "published", "difference")
            ),
        ]
    )
    writer.writerows(
        [name, *(value for cell in row.values() for value in cell.numbers())] for name, row in rows.items()
    )
    return file.getvalue()


def as_latex(number: int, cells: Cells) -> str:
    """With booktabs."""
    text = as_text(number, cells, "latex_booktabs")
    return text.replace(" ± ", " $\\pm$ ").replace(FAILED, "--") + "\n"


def as_markdown(number: int, cells: Cells, seeds: Sequence[int], shots: int) -> str:
    """With a title, and how to read it."""
    how = f"Accuracy in %, {shots} shots, mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
    if set(cells) != {EMBEDDED}:
        how += " [published in arXiv 2312.11570v3, difference]"
    lines = [
        f"**Table {number}.** {TITLES[number]}.",
        "",
        as_text(number, cells, "github"),
        "",
        f'{how}; "{FAILED}" is a training whose loss was not finite, blank is not run. {NOTES[number]}'.strip(),
    ]
    if EMBEDDED in cells:
        lines += [
            "",
            "Digits is not in the paper, so no published number stands beside it; its model is the tiny CLIP.",
        ]
    return "\n".join(lines) + "\n"


def failure(run: Run, message: str) -> str:
    """The line about a failed training."""
    return (
        f"{FAILED} {run.folder}: {message}; it is not repeated unless {os.path.join(run.folder, DIVERGED)} is removed"
    )


def measure(todo: Sequence[Run], done: dict[Run, Results], jobs: int) -> tuple[set[Run], list[str]]:
    """Perform the runs `todo`, `jobs` at a time, and enter them in `done`.

    A training that fails leaves the others to go on; any other error leaves out the rest of its dataset.

    Returns:
        The runs whose training failed, and what went wrong.
    """
    failed: set[Run] = set()
    troubles: list[str] = []
    spoilt: set[str] = set()
    # Side by side, programs that each want all cores are far slower than one after the other.
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None

    def perform(run: Run) -> str:
        if run.dataset not in spoilt:
            try:
                done[run] = run.perform(threads)
            except Diverged as error:
                failed.add(run)
                troubles.append(failure(run, str(error)))
            except UserError as error:
                if run.dataset not in spoilt:
                    troubles.append(f"{run.dataset} is left out: {error}")
                spoilt.add(run.dataset)
        return run.folder

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(todo), unit="run", dynamic_ncols=True) as bar:
        futures = [pool.submit(perform, run) for run in todo]
        try:
            for future in as_completed(futures):
                bar.set_description(future.result())
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return failed, troubles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "number", type=int, choices=METHODS, help="1: bias against prompts; 2: depths; 3: numbers of prompts"
    )
    parser.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="names of configs/datasets (default: the paper's eleven)"
    )
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", help="columns of the table (of Table 3: rows); default: all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="K", help="default: 1 2 3")
    parser.add_argument("--shots", type=int, default=16, metavar="N", help="images per class (default: 16)")
    parser.add_argument(
        "--root",
        "--data",
        dest="data",
        default=os.environ.get("DATA") or "data",
        metavar="DIR",
        help="folder of the datasets (default: $DATA, else data)",
    )
    add_output(parser, "the table goes to its tables/")
    parser.add_argument("--extra", nargs="+", default=[], metavar="KEY VALUE", help="config options for every run")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, which share the CPU's cores; on a "
        "CPU several are faster together where the model is small (default: 1)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only print the commands, about how long they take, and the table of what there is",
    )


def chosen(given: Sequence[str] | None, known: Sequence[str], default: Sequence[str], what: str) -> list[str]:
    """The names that were given, in the order of `known`.

    Raises:
        UserError: one is not known.
    """
    for name in given or ():
        if name not in known:
            raise UserError(f'there is no {what} "{name}": {nearest(name, known)}')
    return [name for name in known if name in (given or default)]


def main(args: argparse.Namespace) -> int:
    """Returns:
        The exit status: 1 if a dataset had to be left out.

    Raises:
        UserError: a name that is not known, options that come not in pairs, a folder that holds another run.
    """
    if len(args.extra) % 2:
        raise UserError(
            f"options come as KEY VALUE pairs, but there are {len(args.extra)} words: {' '.join(args.extra)}"
        )
    if args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}, but at least one run has to go on at a time")
    number = args.number
    eleven = [name for name in DATASETS if name != EMBEDDED]
    datasets = chosen(args.datasets, list(DATASETS), eleven, "dataset in the tables")
    methods = chosen(args.methods, list(METHODS[number]), list(METHODS[number]), f"method in Table {number}")

    runs: dict[tuple[str, str], list[Run]] = {}
    for dataset in datasets:
        for method in methods:
            setting = METHODS[number][method](dataset)
            seeds = args.seeds if setting.learns else [1]
            where = args.shots, args.data, args.output, tuple(args.extra)
            runs[dataset, method] = [Run(setting, dataset, seed, *where) for seed in seeds]
    every = list(dict.fromkeys(run for group in runs.values() for run in group))
    done = {run: results for run in every for results in [run.results()] if results}
    diverged = {run: message for run in every if run not in done for message in [run.divergence()] if message}
    todo = [run for run in every if run not in done and run not in diverged]
    failed, troubles = set(diverged), [failure(run, message) for run, message in diverged.items()]
    if todo:
        print(
            f"{len(done)} of {len(every)} runs are finished; {'the others' if not failed else len(todo)} take about "
            f"{estimate(todo, done) / 3600:.1f} hours on two CPU cores (a GPU takes a small part of it)"
        )
        if args.dry_run:
            print(*(run.command for run in todo), sep="\n")
        else:
            newly_failed, more = measure(todo, done, args.jobs)
            failed, troubles = failed | newly_failed, troubles + more

    look_up = published(number)
    cells: Cells = {dataset: {} for dataset in datasets}
    for (dataset, method), group in runs.items():
        accuracies = [done[run]["accuracy"] for run in group if run in done]
        cells[dataset][method] = Cell(
            accuracies if len(accuracies) == len(group) else (),
            bool(failed.intersection(group)),
            look_up(method, dataset),
        )
    if datasets == eleven:
        cells[AVERAGE] = average(cells, methods, look_up)
    markdown = as_markdown(number, cells, args.seeds, args.shots)
    print("", markdown, *troubles, sep="\n")
    if not args.dry_run:
        stem = os.path.join(args.output, "tables", "_".join([f"table{number}", *(datasets if args.datasets else [])]))
        for ending, text in ("md", markdown), ("csv", as_csv(number, cells)), ("tex", as_latex(number, cells)):
            with atomic_write(f"{stem}.{ending}") as file:
                file.write(text)
        print(f"written: {stem}.md, .csv, .tex")
    return int(any(not trouble.startswith(FAILED) for trouble in troubles))
