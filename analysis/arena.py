"""`python -m analysis arena`: methods on equal terms, with intervals, learning rates chosen on validation images.

Performs the runs that are missing (see `promptbias.experiments.arena`), prints what it found and writes it as Markdown,
CSV and LaTeX, with a figure of accuracy over trainable parameters.
"""

import argparse
import math
import os

from promptbias.engine.config import check_pairs
from promptbias.experiments import arena, layout
from promptbias.experiments.arena import BASE, EVERY, NEW, Arena
from promptbias.experiments.executors.flags import add_executor_flags, check_jobs
from promptbias.experiments.paper import DATASETS, EMBEDDED
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write

from .table import select

SET_BY = {
    **layout.SET_BY_FLAGS,
    "OPTIM.LR": "--grid",
    "DATASET.SUBSAMPLE_CLASSES": "the arena, which trains on all classes and on the base classes",
    "TEST.SPLIT": "the arena, which chooses learning rates on validation images alone",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--datasets",
        nargs="+",
        default=["digits"],
        metavar="NAME",
        help="names of configs/datasets, or `embedded` (default: digits)",
    )
    add(
        "--methods",
        nargs="+",
        required=True,
        metavar="NAME",
        help="METHOD or METHOD:CFG of configs/trainers, such as BiasTuning IVLP:deep; zero-shot CLIP is always there",
    )
    add("--seeds", nargs="+", action=layout.ParseSeeds, default=[1, 2, 3], metavar="K", help="default: 1 2 3")
    add("--shots", type=int, default=16, metavar="N", help="images per class (default: 16)")
    add(
        "--grid",
        nargs="+",
        type=float,
        default=list(arena.GRID),
        metavar="X",
        help="learning rates to choose from, as factors of each configuration's own (default: 0.2 1 5)",
    )
    add("--few-shot-only", action="store_true", help="without training on base and testing on new classes")
    add(
        "--root",
        "--data",
        dest="data",
        default=layout.default_folder("DATA", "data"),
        metavar="DIR",
        help="folder of the datasets (default: $DATA, else data)",
    )
    layout.add_output_argument(parser, "what is found goes to its arena/")
    add("--extra", nargs="+", default=[], metavar="KEY VALUE", help="config options for every run")
    add_executor_flags(parser)
    add("--dry-run", action="store_true", help="only print the commands, and what is known without them")
    parser.set_defaults(verbose=True)


def check_args(args: argparse.Namespace) -> None:
    """Refuse flags that nothing can be done with.

    Raises:
        UserError: says what they must be.
    """
    check_pairs(args.extra)
    layout.refuse_set_keys(args.extra, SET_BY)
    check_jobs(args.jobs)
    if args.shots < 1:
        raise UserError(f"--shots is {args.shots}, but must be at least 1")
    if args.on == "slurm":
        raise UserError(
            "the arena chooses learning rates before it trains, so it is not one array script; use --on ray"
        )
    if not all(0 < factor < math.inf for factor in args.grid):
        raise UserError(f"--grid is {' '.join(map(str, args.grid))}, but must be numbers above 0")


def main(args: argparse.Namespace) -> None:
    """Perform, print, and write.

    Raises:
        UserError: a name that is not known, a dataset without validation images, a run that failed.
    """
    check_args(args)
    groups = [EVERY] if args.few_shot_only else [EVERY, BASE, NEW]
    names = [layout.ZERO_SHOT, *(name for name in dict.fromkeys(args.methods) if name != layout.ZERO_SHOT)]
    where = tuple(args.seeds), tuple(args.grid), args.data, args.output, tuple(args.extra)
    places = []
    datasets = [name for word in args.datasets for name in (EMBEDDED if word == "embedded" else (word,))]
    for dataset in select(datasets, list(DATASETS), [], "dataset in the tables"):
        arena.check_validation(dataset, args.grid)
        contestants = [arena.find_contestant(name, dataset) for name in names]
        places.append((Arena(dataset, args.shots, *where), contestants))

    from . import arena_runs, arena_tables, figures  # torch and matplotlib, when all names are known

    for place, contestants in places:
        found = arena_runs.perform(place, contestants, groups, args)
        if not found.entries:
            continue
        markdown = arena_tables.as_markdown(found)
        print("", markdown, sep="\n")
        if args.dry_run:
            continue
        folder, name = os.path.join(place.output, "arena"), f"{place.dataset}_{place.shots}shots"
        for ending, text in ("md", markdown), ("tex", arena_tables.as_latex(found)):
            with atomic_write(os.path.join(folder, f"{name}.{ending}")) as file:
                file.write(text)
        arrays = {f"{entry.name} {group}": right for entry in found.entries for group, right in entry.correct.items()}
        plots = {f"{name}_pareto": arena_tables.plot(found)}
        written = figures.save(figures.Result("", arena_tables.numbers(found), plots, arrays), folder, name)
        print("written:", *(os.path.join(folder, f"{name}.{ending}") for ending in ("md", "tex")), *written, sep="\n  ")
