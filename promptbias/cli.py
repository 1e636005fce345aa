"""The console command `promptbias`. Each sub-command is imported only when it is asked for."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from promptbias import __version__
from promptbias.utils.startup import handle_signals


class Command(NamedTuple):
    """A sub-command: the module whose `main(argv)` it calls, and what it does."""

    module: str
    help: str


COMMANDS = {
    "train": Command("promptbias.engine.train", "train or test one run, with CoOp's flags"),
    "experiment": Command(
        "promptbias.experiments.protocols", "few-shot, base-to-new and transfer protocols of a method"
    ),
    "analysis": Command("promptbias.analysis.__main__", "figures, tables and reports of finished runs"),
    "datasets": Command("promptbias.datasets.prepare", "list, fetch and check datasets"),
    "predict": Command("promptbias.predict", "classes and probabilities of images and folders, by a finished run"),
    "explain": Command("promptbias.analysis.explain", "what speaks for a text in an image, before and after tuning"),
    "compile": Command("promptbias.compile", "the prompts of a finished run as biases, which fold into a stock CLIP"),
    "export": Command(
        "promptbias.exports.command", "the model of a finished run for clip, hf, peft, open_clip, onnx, torch"
    ),
    "run": Command("promptbias.host.run", "a CoOp, MaPLe or PromptSRC checkout's own train.py, with our trainers"),
    "attach": Command(
        "promptbias.host.attach", "put our configs, scripts and import line into a checkout, or take them out"
    ),
    "methods": Command("promptbias.methods_table", "the tuning methods: options, where they attach, whether they fold"),
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run a sub-command with the rest of the arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    description = "Tune CLIP with deep prompts or biases, and see what they do to it."
    epilog = "`promptbias COMMAND --help` explains the options of a command."
    parser = argparse.ArgumentParser(
        prog="promptbias",
        description=description,
        epilog=epilog,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=16),
    )
    parser.add_argument("--version", action="version", version=f"promptbias {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, add_help=False)  # its module has the parser of the rest
    name = parser.parse_args(argv[:1]).command
    main_of_command = importlib.import_module(COMMANDS[name].module).main
    return main_of_command(argv[1:], prog=f"promptbias {name}") if name == "analysis" else main_of_command(argv[1:])


def console() -> None:
    """Entry point of the installed command."""
    handle_signals()  # before anything that takes a while
    from promptbias.utils.errors import cli

    cli(main)
