"""Options that several commands share, and numbers as users count them."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptbias.utils.errors import UserError

if TYPE_CHECKING:
    from promptbias.model.encoder import Tower

    from .comparison import Comparison


def add_comparison_arguments(parser: argparse.ArgumentParser, all_samples: str = "all of them") -> None:
    """What every command that looks at a run understands.

    Args:
        all_samples: what the command uses without --samples, for its help.
    """
    tuned = parser.add_mutually_exclusive_group(required=True)
    tuned.add_argument("--model-dir", metavar="DIR", help="folder of a finished run; its config.yaml says the rest")
    tuned.add_argument(
        "--seeds-of",
        nargs="+",
        metavar="DIR",
        help="instead: folder of runs seed1, seed2, ... of one kind, shown as their mean ± std; further folders are "
        "compared with it",
    )
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="DIR", help="further runs of the same dataset and backbone"
    )
    parser.add_argument("--output", default="report", metavar="DIR", help="output folder (default: report)")
    parser.add_argument(
        "--samples", type=int, metavar="N", help=f"use N evenly spaced test images (default: {all_samples})"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="batch size (does not affect results; default: 32)"
    )
    parser.add_argument(
        "--template",
        default="a photo of a {}.",
        metavar="TEXT",
        help='template of zero-shot CLIP; "dataset" is the dataset\'s own (default: "a photo of a {}.")',
    )
    parser.add_argument(
        "--root", default="", metavar="DIR", help="folder of the datasets, if it has moved since the run"
    )


def load_comparison(args: argparse.Namespace) -> "Comparison":
    """The models and images that `add_comparison_arguments` describes.

    Raises:
        UserError: as `Comparison`, or --seeds-of with --compare.
    """
    from .comparison import Comparison, ComparisonOverSeeds

    options = args.template, args.samples, args.batch_size, args.root
    if not args.seeds_of:
        return Comparison(args.model_dir, args.compare, *options)
    if args.compare:
        raise UserError("--compare names single runs; name further folders of runs after --seeds-of")
    args.model_dir, *args.compare = args.seeds_of  # so that what is written about the runs names these folders
    return ComparisonOverSeeds(args.seeds_of, *options)


def block_indices(numbers: Sequence[int] | None, tower: "Tower") -> list[int]:
    """Block numbers from 1, as users give them, as indices; all blocks where none are given.

    Raises:
        UserError: there is no such block.
    """
    return _indices("block", numbers, len(tower.blocks))


def head_indices(numbers: Sequence[int] | None, tower: "Tower") -> list[int]:
    """Head numbers from 1, as users give them, as indices; all heads where none are given.

    Raises:
        UserError: there is no such head.
    """
    return _indices("head", numbers, tower.heads)


def _indices(what: str, numbers: Sequence[int] | None, count: int) -> list[int]:
    for number in numbers or ():
        if not 1 <= number <= count:
            raise UserError(f"there is no {what} {number}: {what}s are numbered from 1 to {count}")
    return [number - 1 for number in numbers or range(1, count + 1)]
