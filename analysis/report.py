"""All figures of a run, and its worst mistakes, on one page that needs nothing else: no network, no other file."""

import argparse
import base64
import os
from dataclasses import dataclass, field

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write

from . import figures, pages
from .arguments import add_comparison_arguments, load_comparison
from .commands import FIGURES, NOT_SHOWN, add_figure_options
from .comparison import Comparison
from .mistakes import Mistakes, find_mistakes
from .seeds import result_of


@dataclass
class Section:
    """One figure on the page.

    Attributes:
        name, help: of its command.
        how_to_read, headlines: as in `figures.Result`.
        images: stem -> PNG in base64.
        note: something to say below it, or "".
        left_out: why it could not be made, or "".
    """

    name: str
    help: str
    how_to_read: str = ""
    headlines: list[tuple[str, float]] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    note: str = ""
    left_out: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What all figures understand, and the options of each."""
    add_comparison_arguments(parser)
    for name in FIGURES:
        add_figure_options(name, parser.add_argument_group(f"for {name}"))


def main(args: argparse.Namespace) -> None:
    """Run every command of `FIGURES` on one comparison and write its files, and `index.html`, into `args.output`."""
    figures.check_writable(args.output)
    comparison = load_comparison(args)
    mistakes = find_mistakes(comparison.model_dir, comparison.cfg.DATASET.ROOT)
    sections = [make_section(name, comparison, args) for name in FIGURES]
    path = os.path.join(args.output, "index.html")
    with atomic_write(path) as file:
        file.write(render(facts(comparison, args), sections, mistakes))
    print(f"written: {path}")


def make_section(name: str, comparison: Comparison, args: argparse.Namespace) -> Section:
    """Run one command and write its files. What it cannot make of these runs, such as a figure about prompts of a run
    without any, is left out with a note.
    """
    command = FIGURES[name]
    print(f"{name}: {command.help}")
    try:
        result = result_of(name, comparison, args)
    except UserError as error:
        print(f"  left out: {error}")
        return Section(name, command.help, left_out=str(error))
    figures.save(result, args.output, name)
    images = {}
    for stem in result.figures:
        with open(figures.file_path(args.output, stem, "png"), "rb") as file:
            images[stem] = base64.b64encode(file.read()).decode()
    note = NOT_SHOWN if args.compare and not command.shows_compared_runs else ""
    return Section(name, command.help, result.how_to_read, result.headlines, images, note)


def facts(comparison: Comparison, args: argparse.Namespace) -> dict[str, str]:
    """What the page is about: key -> value, "title" first."""
    cfg = comparison.cfg
    return {
        "title": f"What tuning did to CLIP: {comparison.label} on {cfg.DATASET.NAME}",
        "tuned run": f"{args.model_dir} ({comparison.label})",
        "compared with": ", ".join(args.compare) or "nothing",
        "dataset": f"{cfg.DATASET.NAME}, {len(comparison)} test images, {len(comparison.classnames)} classes, "
        f"{cfg.DATASET.NUM_SHOTS} shots",
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "template of zero-shot CLIP": comparison.plain.template,
        "template of the tuned run": comparison.tuned.template,
    }


def render(about: dict[str, str], sections: list[Section], mistakes: Mistakes) -> str:
    """The page, as HTML."""
    shown = {key: value for key, value in about.items() if key != "title"}
    return pages.render("report.html.j2", title=about["title"], facts=shown, sections=sections, mistakes=mistakes)
