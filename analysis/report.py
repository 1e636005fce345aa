"""All figures of a run, its worst mistakes, and maps to explore, on one page that needs nothing else: no network."""

import argparse
import copy
import dataclasses
import os
import time
from typing import NamedTuple

from promptbias import __version__
from promptbias.engine.run_folder import read_config
from promptbias.experiments.results import short_names
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write

from . import figures, findings, pages
from .accuracies import accuracy_table
from .arguments import add_comparison_arguments, load_comparison
from .commands import FIGURES, NOT_SHOWN, add_figure_options
from .comparison import Comparison
from .costs import COSTS, FEW_SHOT, OTHERWISE, duration, most_samples, seconds_of
from .exploration import SHOWN, Exploration, explore
from .mistakes import Mistakes, find_mistakes
from .paper_figures import figure_of_paper
from .sections import Section, Table, keep, kept, made_from, number_tables, svg
from .seeds import result_of

ACCURACY = "accuracy"  # the name of the table at the head of the page


class Report(NamedTuple):
    """What stands in a report, for a page about several.

    Attributes:
        title: of the page.
        sections: of the figures.
        accuracy: the table at its head.
    """

    title: str
    sections: list[Section]
    accuracy: Section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What all figures understand, and the options of each."""
    add_comparison_arguments(
        parser, f"at most {OTHERWISE.samples}, evenly over the classes, and fewer for slow figures"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], choices=list(FIGURES), metavar="NAME", help="only these figures"
    )
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=list(FIGURES), metavar="NAME", help="not these figures"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        default=[],
        metavar="DIR",
        help="further runs, of any datasets, with a page of each in a folder of its own in --output, and one page that "
        "leads to them",
    )
    parser.add_argument(
        "--explore", type=int, default=SHOWN, metavar="N", help=f"test images to explore (default: {SHOWN}; 0: none)"
    )
    for name in FIGURES:
        add_figure_options(name, parser.add_argument_group(f"for {name}"))


def main(args: argparse.Namespace) -> None:
    """Write each figure's files, and the page `index.html`, into `args.output`; of several runs one after another."""
    if args.explore < 0:
        raise UserError(f"--explore is {args.explore}, but must be at least 0")
    figures.check_writable(args.output)
    if args.also and (args.compare or args.seeds_of):
        raise UserError("--also goes with --model-dir alone; make reports with --compare or --seeds-of one by one")
    runs = [args.model_dir, *args.also]
    for run in args.also:
        read_config(run)  # a wrong name ends the command now, not after hours
    names = [name.replace(os.sep, "-") for name in short_names(runs)] if args.also else [""]
    made = []
    for run, name in zip(runs, names):
        of_run = copy.copy(args)
        of_run.model_dir, of_run.output = run, os.path.join(args.output, name)
        made.append(report(of_run))
    if args.also:
        write_page(os.path.join(args.output, "index.html"), overview(dict(zip(names, made))))


def report(args: argparse.Namespace) -> Report:
    """The report of one run."""
    comparison = load_comparison(args)
    mistakes = find_mistakes(comparison.model_dir, comparison.cfg.DATASET.ROOT)
    names = [name for name in FIGURES if name in (args.only or FIGURES) and name not in args.skip]
    counts = {name: sample_count(name, comparison, args) for name in names}
    checksums = {name: made_from(name, args, counts[name]) for name in names}
    found = {name: kept(name, args.output, checksums[name]) for name in names}
    print_estimate(comparison, {name: counts[name] for name in names if found[name] is None})
    accuracy = accuracies(comparison, args)
    sections = []
    for name in names:
        section = found[name]
        if section is None:
            section = make_section(name, comparison.stratified(counts[name], FEW_SHOT), args)
            section.samples = f"From {sample_note(counts[name], comparison, args)}.{few_shot_note(name, comparison)}"
            if not section.left_out:  # what was missing, such as masks, may be there next time
                keep(section, args.output, checksums[name])
        else:
            print(f"{name}: as it was made before, from the same runs and options")
        sections.append(section)
    tested = [finding for section in sections for finding in section.findings]
    findings.write(args.output, findings.Findings(comparison.cfg.DATASET.NAME, comparison.label, tested))
    exploration = explore(comparison, args.explore) if args.explore else None
    about = facts(comparison, args)
    page = render(about, sections, mistakes, exploration, accuracy)
    write_page(os.path.join(args.output, "index.html"), page)
    return Report(about["title"], sections, accuracy)


def write_page(path: str, page: str) -> None:
    with atomic_write(path) as file:
        file.write(page)
    print(f"written: {path} ({os.path.getsize(path) / 1e6:.1f} MB)")


def accuracies(comparison: Comparison, args: argparse.Namespace) -> Section:
    """The table at the head of the page, kept like a figure's section."""
    count = sample_count(ACCURACY, comparison, args)
    checksum = made_from(ACCURACY, args, count)
    section = kept(ACCURACY, args.output, checksum)
    if section is None:
        few = comparison.stratified(count)
        note = sample_note(count, comparison, args)
        section = Section(ACCURACY, "accuracy", tables=[accuracy_table(few)], samples=note)
        keep(section, args.output, checksum)
    return section


def sample_count(name: str, comparison: Comparison, args: argparse.Namespace) -> int:
    """How many test images a figure is made from."""
    if args.samples is not None:
        return len(comparison)
    return min(len(comparison), most_samples(name))


def sample_note(count: int, comparison: Comparison, args: argparse.Namespace) -> str:
    """Which test images something is made from, in words."""
    if count == comparison.total:
        return f"all {count} test images"
    return (
        f"{count} of {comparison.total} test images, {'evenly spaced' if args.samples else 'evenly over the classes'}"
    )


def few_shot_note(name: str, comparison: Comparison) -> str:
    """For figures that take means over the few-shot training images: over which, if not all; otherwise ""."""
    if len(comparison.few_shot) <= FEW_SHOT or not COSTS.get(name, OTHERWISE).few_shot:
        return ""
    return f" Means are over {FEW_SHOT} of {len(comparison.few_shot)} few-shot images, evenly over the classes."


def print_estimate(comparison: Comparison, counts: dict[str, int]) -> None:
    """Say how long figures will take, roughly."""
    if not counts:
        return
    seconds = seconds_of(comparison, counts)
    parts = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
    print(
        f"about {duration(sum(seconds.values()))} to go: {parts} (--samples, --only and --skip make it less)",
        flush=True,
    )


def make_section(name: str, comparison: Comparison, args: argparse.Namespace) -> Section:
    """Run one command and write its files. What it cannot make of these runs, such as a figure about prompts of a run
    without any, is left out with a note.
    """
    command = FIGURES[name]
    print(f"{name}: {command.help}", flush=True)
    started = time.perf_counter()
    try:
        result = result_of(name, comparison, args)
    except UserError as error:
        print(f"  left out: {error}")
        return Section(name, command.help, left_out=str(error))
    files = [os.path.basename(path) for path in figures.save(result, args.output, name)]
    drawings = {stem: svg(figure) for stem, figure in result.figures.items()}
    note = NOT_SHOWN if args.compare and not command.shows_compared_runs else ""
    print(f"  {duration(time.perf_counter() - started)}", flush=True)
    tables = number_tables(result.headlines, list(comparison.models))
    of_paper = {stem: figure_of_paper(stem, comparison.cfg.DATASET.NAME) for stem in drawings}
    return Section(
        name,
        command.help,
        result.how_to_read,
        tables,
        drawings,
        of_paper,
        note=note,
        files=files,
        findings=result.findings,
    )


def facts(comparison: Comparison, args: argparse.Namespace) -> dict[str, str]:
    """What the page is about: key -> value, "title" first."""
    cfg = comparison.cfg
    return {
        "title": f"What tuning did to CLIP: {comparison.label} on {cfg.DATASET.NAME}",
        "tuned run": f"{args.model_dir} ({comparison.label})",
        "compared with": ", ".join(args.compare) or "nothing",
        "dataset": f"{cfg.DATASET.NAME}, {comparison.total} test images, {len(comparison.classnames)} classes, "
        f"{cfg.DATASET.NUM_SHOTS} shots",
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "template of zero-shot CLIP": comparison.plain.template,
        "template of the tuned run": comparison.tuned.template,
        "made": f"{time.strftime('%Y-%m-%d')}, promptbias {__version__}",
    }


def render(
    about: dict[str, str],
    sections: list[Section],
    mistakes: Mistakes,
    exploration: Exploration | None = None,
    accuracy: Section | None = None,
) -> str:
    """The page, as HTML."""
    shown = {key: value for key, value in about.items() if key != "title"}
    return pages.render(
        "report.html.j2",
        title=about["title"],
        facts=shown,
        sections=sections,
        mistakes=mistakes,
        findings=findings.rows_of([finding for section in sections for finding in section.findings]),
        accuracy=accuracy,
        exploration=dataclasses.asdict(exploration) if exploration else None,
        exploration_table=images_table(exploration) if exploration else [],
    )


def images_table(exploration: Exploration) -> Table:
    """What both models say of the images that can be explored."""
    rows = [["image", "class", "change", "plain CLIP", "probability", "tuned", "probability"]]
    for image in exploration.images:
        says = [
            text
            for model in ("plain", "tuned")
            for text in (image[model]["class"], f"{image[model]['probability']:.3f}")
        ]
        rows.append([str(image["index"]), image["true"], image["change"], *says])
    return rows


def overview(made: dict[str, Report]) -> str:
    """A page that leads to several reports, by their folders beside it."""
    return pages.render("reports.html.j2", title="What tuning did to CLIP", facts={}, made=made)
