"""`python -m analysis table 1` (2, 3): the paper's tables, measured, with the published numbers and the difference.

Performs the runs that are missing, resumes interrupted ones, prints the table and writes it as Markdown, CSV and LaTeX.
"""

import argparse
import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from promptbias.engine.config import check_pairs
from promptbias.experiments.executors.flags import add_executor_flags, check_jobs, executor_of
from promptbias.experiments.executors.slurm import write_script
from promptbias.experiments.layout import (
    SET_BY_FLAGS,
    ParseSeeds,
    add_output_argument,
    default_folder,
    refuse_set_keys,
)
from promptbias.experiments.paper import AVERAGE, DATASETS, EMBEDDED, METHODS, Absent, published
from promptbias.experiments.results import Results, format_mean_std, mean_std
from promptbias.experiments.runs import DIVERGED, Run
from promptbias.experiments.schedule import estimate_seconds, run_all
from promptbias.utils.errors import UserError, nearest
from promptbias.utils.files import atomic_write

TITLES = {
    1: "Bias tuning against prompts",
    2: "4+4 prompts at prompt depth 1 to 12",
    3: "Number of prompts in both branches together, at depth 12",
}
NOTES = {
    1: "PROMPT: 1+1 prompts at depth 12, as many trainable parameters as BIAS. OPTIMAL: 10+10. GENERIC: "
    '"a photo of a {}." in place of the dataset\'s own template; the paper does not say which it uses, so both are '
    "compared with its BIAS.",
    2: "",
    3: "",
}


@dataclass(frozen=True)
class Cell:
    """Accuracies of one method on one dataset in percent, and what the paper has there.

    Attributes:
        measured: one accuracy for each seed; MISSING where not all of them were run, FAILED where a training diverged.
        published: the paper's accuracy; MISSING where it has none, FAILED where its training failed.
    """

    measured: Sequence[float] | Absent = Absent.MISSING
    published: float | Absent = Absent.MISSING

    @property
    def difference(self) -> float | Absent:
        """Measured mean minus published number, where there are both."""
        if isinstance(self.measured, Absent) or isinstance(self.published, Absent):
            return Absent.MISSING
        return mean_std(self.measured)[0] - self.published

    def format(self, digits: int) -> str:
        """mean ± std [published, difference]; "–" is a failed training."""
        measured = self.measured
        text = str(measured) if isinstance(measured, Absent) else format_mean_std(measured, digits)
        if self.published is Absent.MISSING:
            return text
        pair = [format_number(self.published, f".{digits}f"), format_number(self.difference, f"+.{digits}f")]
        return f"{text} [{', '.join(filter(None, pair))}]".strip()

    def csv_values(self) -> list[str]:
        """mean, std, published, difference."""
        mean: float | Absent
        std: float | Absent
        if isinstance(self.measured, Absent):
            mean, std = self.measured, Absent.MISSING
        else:
            mean, std = mean_std(self.measured)
            std = std if len(self.measured) > 1 else Absent.MISSING
        return [format_number(value, ".4f") for value in (mean, std, self.published, self.difference)]


def format_number(value: float | Absent, spec: str) -> str:
    return str(value) if isinstance(value, Absent) else format(value, spec)


Cells = dict[str, dict[str, Cell]]  # dataset -> method -> cell


def average_row(cells: Cells, methods: Sequence[str], look_up: Callable[[str, str], float | Absent]) -> dict[str, Cell]:
    """The mean over datasets, of each method that was run on all of them."""
    row = {}
    for method in methods:
        measured = [of[method].measured for of in cells.values()]
        means = [mean_std(accuracies)[0] for accuracies in measured if not isinstance(accuracies, Absent)]
        complete = len(means) == len(cells)
        row[method] = Cell([mean_std(means)[0]] if complete else Absent.MISSING, look_up(method, AVERAGE))
    return row


def as_published_layout(number: int, cells: Cells) -> tuple[str, dict[str, dict[str, Cell]]]:
    """The heading of the first column, and row -> column -> cell, as published: datasets are the columns of Table 3."""
    named = {DATASETS[dataset][0] if dataset in DATASETS else dataset: row for dataset, row in cells.items()}
    if number != 3:
        return "Dataset", named
    methods = next(iter(named.values()))
    return "Prompts", {method: {name: row[method] for name, row in named.items()} for method in methods}


def as_text(number: int, cells: Cells, style: str) -> str:
    """The table in one of tabulate's styles."""
    corner, rows = as_published_layout(number, cells)
    digits = 1 if number == 1 else 2
    return tabulate(
        [[name, *(cell.format(digits) for cell in row.values())] for name, row in rows.items()],
        [corner, *next(iter(rows.values()))],
        tablefmt=style,
        disable_numparse=True,
    )


def as_csv(number: int, cells: Cells) -> str:
    """Four columns for each one of the table: mean, std, published, difference."""
    corner, rows = as_published_layout(number, cells)
    columns, kinds = next(iter(rows.values())), ("", "std", "published", "difference")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([corner, *(f"{name} {kind}".strip() for name in columns for kind in kinds)])
    for name, row in rows.items():
        writer.writerow([name, *(value for cell in row.values() for value in cell.csv_values())])
    return file.getvalue()


def as_latex(number: int, cells: Cells) -> str:
    """With booktabs."""
    text = as_text(number, cells, "latex_booktabs")
    return text.replace(" ± ", " $\\pm$ ").replace(str(Absent.FAILED), "--") + "\n"


def as_markdown(number: int, cells: Cells, seeds: Sequence[int], shots: int) -> str:
    """With a title, and how to read it."""
    how = f"Accuracy in %, {shots} shots, mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
    if not set(cells) <= set(EMBEDDED):
        how += " [published in arXiv 2312.11570v3, difference]"
    how += f'; "{Absent.FAILED}" is a training whose loss was not finite, blank is not run. {NOTES[number]}'
    lines = [f"**Table {number}.** {TITLES[number]}.", "", as_text(number, cells, "github"), "", how.strip()]
    embedded = [DATASETS[name][0] for name in EMBEDDED if name in cells]
    if embedded:
        lines += [
            "",
            f"Not in the paper, hence without published numbers, and on the tiny CLIP: {', '.join(embedded)}.",
        ]
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "number", type=int, choices=METHODS, help="1: bias against prompts; 2: prompt depths; 3: numbers of prompts"
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        metavar="NAME",
        help="names of configs/datasets, or `embedded` (default: the paper's 11)",
    )
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", help="columns of the table (of Table 3: rows); default: all"
    )
    parser.add_argument("--seeds", nargs="+", action=ParseSeeds, default=[1, 2, 3], metavar="K", help="default: 1 2 3")
    parser.add_argument("--shots", type=int, default=16, metavar="N", help="images per class (default: 16)")
    parser.add_argument(
        "--root",
        "--data",
        dest="data",
        default=default_folder("DATA", "data"),
        metavar="DIR",
        help="folder of the datasets (default: $DATA, else data)",
    )
    add_output_argument(parser, "the table goes to its tables/")
    parser.add_argument("--extra", nargs="+", default=[], metavar="KEY VALUE", help="config options for every run")
    add_executor_flags(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say how many runs are missing, about how long they take, and show the table of the others",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="with --dry-run, also print the command of each missing run"
    )


def select(given: Sequence[str] | None, known: Sequence[str], default: Sequence[str], what: str) -> list[str]:
    """The names that were given, in the order of `known`.

    Raises:
        UserError: one is not known.
    """
    for name in given or ():
        if name not in known:
            raise UserError(f'there is no {what} "{name}": {nearest(name, known)}')
    return [name for name in known if name in (given or default)]


def divergence_line(run: Run, message: str) -> str:
    """What to print about a failed training."""
    path = os.path.join(run.folder, DIVERGED)
    return f"{Absent.FAILED} {run.folder}: {message}; it is not repeated unless {path} is removed"


Groups = dict[tuple[str, str], list[Run]]  # (dataset, method) -> its runs, one for each seed


def perform_missing(
    groups: Groups, args: argparse.Namespace
) -> tuple[dict[Run, Results], dict[Run, str], dict[str, str]]:
    """Perform what is neither finished nor known to diverge, unless it is a dry run.

    Returns:
        The results of all finished runs; the runs that diverged, and what they said; datasets left out, and why.
    """
    every = list(dict.fromkeys(run for group in groups.values() for run in group))
    done = {run: results for run in every for results in [run.results()] if results}
    diverged = {run: message for run in every if run not in done for message in [run.divergence()] if message}
    todo = [run for run in every if run not in done and run not in diverged]
    if not todo:
        return done, diverged, {}
    print(
        f"{len(done)} of {len(every)} runs are finished; {len(todo) if diverged else 'the others'} take about "
        f"{estimate_seconds(todo, done) / 3600:.1f} hours on two CPU cores (a GPU takes a small part of it)"
    )
    if args.dry_run:
        print("\n".join(run.command for run in todo) if args.verbose else "(--verbose prints their commands)")
        return done, diverged, {}
    if args.on == "slurm":
        path = os.path.join(args.output, "slurm", f"table{args.number}.sh")
        write_script(todo, path, args.jobs)
        print(f"written: {path}; submit it with `sbatch {path}`, and give this command again when its tasks are done")
        return done, diverged, {}
    outcome = run_all(todo, done, executor_of(args))
    return done, {**diverged, **outcome.diverged}, outcome.failed_datasets


def cell_of(group: Sequence[Run], done: dict[Run, Results], failed: set[Run], paper: float | Absent) -> Cell:
    """The cell of a group of runs, with the published number `paper`."""
    if failed.intersection(group):
        return Cell(Absent.FAILED, paper)
    complete = all(run in done for run in group)
    return Cell([done[run]["accuracy"] for run in group] if complete else Absent.MISSING, paper)


def main(args: argparse.Namespace) -> int:
    """Returns:
        The exit status: 1 if a dataset had to be left out.

    Raises:
        UserError: a name that is not known, a key without value, a folder that holds another run.
    """
    check_pairs(args.extra)
    refuse_set_keys(args.extra, SET_BY_FLAGS)
    check_jobs(args.jobs)
    number = args.number
    eleven = [name for name in DATASETS if name not in EMBEDDED]
    named = [name for word in args.datasets or () for name in (EMBEDDED if word == "embedded" else (word,))]
    datasets = select(named, list(DATASETS), eleven, "dataset in the tables")
    methods = select(args.methods, list(METHODS[number]), list(METHODS[number]), f"method in Table {number}")

    groups: Groups = {}
    for dataset in datasets:
        for method in methods:
            setting = METHODS[number][method](dataset)
            seeds = args.seeds if setting.is_trained else [1]
            where = args.shots, args.data, args.output, args.extra
            groups[dataset, method] = [setting.run(dataset, seed, *where) for seed in seeds]
    done, diverged, failed_datasets = perform_missing(groups, args)

    look_up = published(number)
    cells: Cells = {dataset: {} for dataset in datasets}
    for (dataset, method), group in groups.items():
        cells[dataset][method] = cell_of(group, done, set(diverged), look_up(method, dataset))
    if datasets == eleven:
        cells[AVERAGE] = average_row(cells, methods, look_up)
    markdown = as_markdown(number, cells, args.seeds, args.shots)
    print("", markdown, sep="\n")
    for run, message in diverged.items():
        print(divergence_line(run, message))
    for dataset, message in failed_datasets.items():
        print(f"{dataset} is left out: {message}")
    if not args.dry_run:
        stem = os.path.join(args.output, "tables", "_".join([f"table{number}", *(datasets if args.datasets else [])]))
        for ending, text in ("md", markdown), ("csv", as_csv(number, cells)), ("tex", as_latex(number, cells)):
            with atomic_write(f"{stem}.{ending}") as file:
                file.write(text)
        print(f"written: {stem}.md, .csv, .tex")
    return int(bool(failed_datasets))
