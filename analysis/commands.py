"""The commands of `python -m analysis`, and the modules behind them. Needs nothing heavy."""

import argparse
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .arguments import add_comparison_arguments


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        help: one line.
        shows_compared_runs: whether its figure shows the runs of --compare.
        old_names: what it was called before; they still work.
    """

    help: str
    shows_compared_runs: bool = True
    old_names: tuple[str, ...] = ()


# Figures of a run, in the order of the report. A figure's module has `run(comparison, args) -> Result` and, if it has
# options, `add_arguments(parser)`. It is imported only when it is needed.
FIGURES: dict[str, Command] = {
    "contribution": Command("what each text token and image patch contributes to the alignment (figs. 2, 3, 8-23)"),
    "eos-attention": Command("where EOS attends in each text block and head (fig. 4)"),
    "distance": Command("how far patches attend in each vision block and head (fig. 5)"),
    "entropy": Command("how widely patches and [cls] attend in each vision block and head (figs. 5, 7)"),
    "heatmap": Command(
        "[cls] attention and prompt similarity over the image, also rotated (fig. 6)", shows_compared_runs=False
    ),
    "overlay": Command(
        "relevancy and [cls] attention laid over the picture: plain, tuned, difference", shows_compared_runs=False
    ),
    "sinks": Command(
        "attention sinks: attention received, length of values, rank of the prompts' update",
        shows_compared_runs=False,
    ),
    "decompose": Command(
        "what prompts add to each attention update, and what they take away (eqs. 17-33)", shows_compared_runs=False
    ),
    "ablations": Command(
        "accuracy with parts of the prompts' effect ablated or patched: attention or bias?",
        shows_compared_runs=False,
        old_names=("mechanism",),
    ),
    "controls": Command(
        "accuracy with u and π held constant over images or positions, or confined to some rows: what has to vary?",
        shows_compared_runs=False,
    ),
    "constancy": Command("how constant the prompts' contribution is over tokens and images", shows_compared_runs=False),
    "mean-to-bias": Command(
        "accuracy of a stock CLIP with the prompts' mean contribution as biases, without training",
        old_names=("to-bias",),
    ),
    "dose": Command("dose-response: accuracy and margin with the tuned effect scaled from 0 to 2"),
    "feature-shift": Command("how much of the gain is one constant vector per branch, added to the features"),
    "bias-norms": Command("length of the trained biases in each block, site and branch"),
    "foreground": Command("how much of [cls] attention and relevancy lies on the object, for datasets with masks"),
    "faithfulness": Command(
        "deletion curves: accuracy while patches are removed in the order of a map, and the area under it",
        old_names=("truth",),
    ),
}

# Commands with arguments of their own. A module has `add_arguments(parser)` and `main(args) -> int | None`.
OTHERS: dict[str, Command] = {
    "report": Command("all figures of a run on one page, report/index.html"),
    "findings": Command("the paper's findings on one's own runs, confirmed or not, from finished reports"),
    "results": Command("accuracy and macro-F1 of finished runs, mean ± std over seeds"),
    "table": Command("tables 1, 2 and 3 of the paper: runs what is missing and sets it beside the published numbers"),
    "curves": Command("accuracy over shots, prompt depth or number of prompts, from finished runs"),
    "arena": Command("methods on equal terms, learning rates chosen on validation images: accuracy, intervals, cost"),
}

COMMANDS = {**FIGURES, **OTHERS}
RENAMED = {old: name for name, command in COMMANDS.items() for old in command.old_names}
NOT_SHOWN = "The runs of --compare are not shown in this figure."


def module_of(name: str) -> ModuleType:
    """The module behind a command."""
    return importlib.import_module("promptbias.analysis." + name.replace("-", "_"))


def add_figure_options(name: str, parser: Any) -> None:
    """Add the options that only this figure has to a parser, or to a group of one."""
    add = getattr(module_of(name), "add_arguments", None)
    if add:
        add(parser)


class CommandParser(argparse.ArgumentParser):
    """A command's parser, which learns the command's options, and imports its module, when it is first used.

    So the overview of all commands imports none of them.
    """

    def __init__(self, *args: Any, command: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.command = command

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        name, self.command = self.command, ""
        if name in FIGURES:
            add_comparison_arguments(self)
            add_figure_options(name, self)
        elif name:
            module_of(name).add_arguments(self)
        return super().parse_known_args(args, namespace)


def make_parser(prog: str = "python -m analysis") -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="What tuning did inside CLIP: one figure with its numbers, or all of them (report).",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=20),
    )
    parser.epilog = f"`{prog} NAME --help` explains the options of a command."
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="NAME", required=True, parser_class=CommandParser
    )
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, description=command.help, command=name)
    return parser
