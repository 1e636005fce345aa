"""`python -m analysis results RUNS`: accuracy and macro-F1 of finished runs, mean ± std over seeds."""

import argparse

from promptbias.experiments.layout import ParseSeeds
from promptbias.experiments.results import table_of_base_and_new, table_of_folders, table_of_seeds
from promptbias.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", metavar="RUNS", help="folder of runs seed1, seed2, ...; of several, one row each"
    )
    parser.add_argument(
        "--zero-shot", nargs="+", default=[], metavar="DIR", help="a zero-shot run, or one for each RUNS"
    )
    parser.add_argument("--seeds", nargs="+", action=ParseSeeds, metavar="K", help="which seeds (default: all)")
    parser.add_argument(
        "--base-new",
        action="store_true",
        help="RUNS are two folders, tested on base and on new classes: adds the harmonic mean",
    )


def main(args: argparse.Namespace) -> None:
    """Print one table.

    Raises:
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
