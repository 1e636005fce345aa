"""`python -m analysis NAME --model-dir DIR`: one figure with its numbers. `python -m analysis report ...`: all of them."""

import argparse
import importlib
import sys

from promptbias.utils.errors import cli

# Commands that look at a run, in the order of the report. The module of each has `add_arguments(parser)` and
# `run(study, args) -> Result`, and is imported only when it is asked for.
FIGURES: dict[str, str] = {
    "contribution": "what each text token and image patch contributes to the alignment (figs. 2, 3, 8-23)",
    "eos-attention": "where EOS looks in each text block and head (fig. 4)",
    "distance": "how far patches look in each image block and head (fig. 5)",
    "entropy": "how widely patches and [cls] look in each image block and head (figs. 5, 7)",
    "heatmap": "[cls] attention and prompt similarity over the image, also rotated (fig. 6)",
    "decompose": "what prompts add to each update, and what they take away (eqs. 17-33)",
    "mechanism": "accuracy with parts of the prompts' effect switched off: attention or bias?",
    "constancy": "how constant the prompts' contribution is over tokens and images",
    "to-bias": "accuracy of a stock CLIP that has the prompts' mean contribution as biases, without training",
    "truth": "accuracy while patches are removed in order of relevancy: do the maps tell the truth?",
}

ALONE = ("heatmap", "decompose", "mechanism", "constancy")  # do not show the runs to compare with
NOT_SHOWN = "The runs to compare with are not shown in this figure."

# Commands with arguments of their own. The module of each has `add_arguments(parser)` and `main(args)`.
OTHERS: dict[str, str] = {
    "report": "all of the above on one page, report/index.html",
    "results": "accuracy and macro-F1 of finished runs, mean ± std over seeds",
    "table": "the paper's tables 1, 2 and 3: runs what is missing and sets it beside the published numbers",
    "curves": "accuracy over shots, prompt depth or number of prompts, from finished runs",
}


def command_module(name: str):
    """The module behind a command; one that looks at a run finds Dassl and the trainers there to import."""
    return importlib.import_module("promptbias.analysis." + name.replace("-", "_"))


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that looks at a run understands."""
    parser.add_argument(
        "--model-dir", required=True, metavar="DIR", help="folder of a finished run; its config.yaml says the rest"
    )
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="DIR", help="further runs of the same dataset and backbone"
    )
    parser.add_argument("--output", default="report", metavar="DIR", help="where the files go (default: report)")
    parser.add_argument(
        "--samples", type=int, metavar="N", help="so many test images, spread over the test set (default: all)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="images at a time; changes no result (default: 32)"
    )
    parser.add_argument(
        "--template",
        default="a photo of a {}.",
        metavar="TEXT",
        help='text of zero-shot CLIP; "dataset" is the dataset\'s own (default: "a photo of a {}.")',
    )
    parser.add_argument(
        "--root", default="", metavar="DIR", help="folder of the datasets, if it has moved since the run"
    )


def load_study(args: argparse.Namespace):
    from .run import Study

    return Study(args.model_dir, args.compare, args.template, args.samples, args.batch_size, args.root)


def make_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    parser = argparse.ArgumentParser(prog=f"python -m analysis {name}", description={**FIGURES, **OTHERS}[name])
    if name in FIGURES:
        add_study_arguments(parser)
    command_module(name).add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int | None:
    argv = sys.argv[1:] if argv is None else argv
    commands = {**FIGURES, **OTHERS}
    width = max(map(len, commands)) + 2
    overview = argparse.ArgumentParser(
        prog="python -m analysis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:{width}}{text}" for name, text in commands.items())
        + "\n\n`python -m analysis NAME --help` explains the options of each.",
    )
    overview.add_argument("name", choices=commands, metavar="NAME", help="one of those below")
    name = overview.parse_args(argv[:1]).name

    args = make_parser(name).parse_args(argv[1:])
    if name in OTHERS:
        return command_module(name).main(args)
    from . import figures

    figures.check_writable(args.output)
    result = command_module(name).run(load_study(args), args)
    print(result.how_to_read, "", sep="\n")
    if args.compare and name in ALONE:
        print(NOT_SHOWN)
    for what, value in result.headlines:
        print(f"{what}: {figures.readable(value)}")
    print("written:", *figures.save(result, args.output, name), sep="\n  ")
    return None


if __name__ == "__main__":
    cli(main)
