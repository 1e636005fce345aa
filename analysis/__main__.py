"""`python -m analysis NAME --model-dir DIR`: one figure with its numbers; with the name `report` all of them."""

from promptbias.utils.startup import handle_signals

if __name__ == "__main__":
    handle_signals()  # before anything that takes a while

import argparse
import sys
from collections.abc import Sequence

from promptbias.analysis import commands
from promptbias.utils.errors import cli


def main(argv: Sequence[str] | None = None, prog: str = "python -m analysis") -> int | None:
    """Run a command line.

    Args:
        argv: without the program's name; default: that of this process.
        prog: how the program is called in help texts.

    Raises:
        UserError: something that the user can put right.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in commands.RENAMED:
        new = commands.RENAMED[argv[0]]
        print(f'"{argv[0]}" is now called "{new}"', file=sys.stderr)
        argv[0] = new
    args = commands.make_parser(prog).parse_args(argv)
    if args.command in commands.OTHERS:
        return commands.module_of(args.command).main(args)
    make_figure(args.command, args)
    return None


def make_figure(name: str, args: argparse.Namespace) -> None:
    """Run a figure's command, print its description and numbers, and write its files."""
    from promptbias.analysis import figures
    from promptbias.analysis.arguments import load_comparison
    from promptbias.analysis.seeds import result_of

    figures.check_writable(args.output)
    result = result_of(name, load_comparison(args), args)
    print(result.how_to_read, "", sep="\n")
    if args.compare and not commands.FIGURES[name].shows_compared_runs:
        print(commands.NOT_SHOWN)
    for what, value in result.headlines:
        print(f"{what}: {figures.format_number(value)}")
    print("written:", *figures.save(result, args.output, name), sep="\n  ")


if __name__ == "__main__":
    cli(main)
