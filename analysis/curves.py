"""`python -m analysis curves shots` (depth, prompts): accuracy over them, from finished runs."""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from promptbias.engine.run_folder import RESULTS
from promptbias.experiments.layout import ZERO_SHOT, ParseSeeds, add_output_argument, backbone_of
from promptbias.experiments.paper import BLOCKS, DATASETS, Absent, bias, prompts, published
from promptbias.experiments.results import format_mean_std, mean_std, read_results, render_table
from promptbias.experiments.runs import Setting
from promptbias.utils.errors import UserError, nearest

SHOTS = (1, 2, 4, 8, 16)
NUMBERS = (2, 4, 6, 8, 20, 40, 100)
TABLES = {"depth": 2, "prompts": 3}  # of the paper, with its numbers

# x -> (setting, shots)
Points = dict[float, tuple[Setting, int]]


def settings_along(
    x_axis: str, shots: int, numbers: Sequence[int] = SHOTS, trainer: str = "", cfg: str = ""
) -> tuple[str, dict[str, Points]]:
    """The label of the x axis, and for each curve its settings along x.

    Args:
        x_axis: "shots", "depth" or "prompts".
        shots: of all points where x is something else; `numbers` are those of a curve over shots.
        trainer, cfg: one curve over shots, of the runs in <trainer>/<cfg>_<n>shots; "": the paper's three methods.
    """
    if x_axis == "shots":
        methods = {"PROMPT": prompts(1), "BIAS": bias(), "OPTIMAL": prompts(10)}
        if trainer:
            methods = {f"{trainer} {cfg}": Setting(trainer, cfg)}
        return "images per class", {name: {n: (setting, n) for n in numbers} for name, setting in methods.items()}
    if x_axis == "depth":
        return "prompt depth (blocks)", {"4+4 prompts": {n: (prompts(4, n), shots) for n in range(1, BLOCKS + 1)}}
    return "prompts in both branches", {"prompts in all blocks": {n: (prompts(n // 2), shots) for n in NUMBERS}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("x_axis", choices=("shots", "depth", "prompts"))
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="one panel each")
    parser.add_argument("--seeds", nargs="+", action=ParseSeeds, default=[1, 2, 3], metavar="K", help="default: 1 2 3")
    parser.add_argument(
        "--shots", type=int, default=16, metavar="N", help="images per class (default: 16); not for `shots`"
    )
    add_output_argument(parser, "figures go to its curves/")
    of_shots = parser.add_argument_group("for `curves shots`")
    of_shots.add_argument(
        "--numbers",
        nargs="+",
        type=int,
        default=list(SHOTS),
        metavar="N",
        help="images per class (default: 1 2 4 8 16)",
    )
    of_shots.add_argument(
        "--trainer",
        default="",
        metavar="NAME",
        help="one curve, of the runs in <dataset>/<trainer>/<cfg>_<N>shots; any dataset will do",
    )
    of_shots.add_argument("--cfg", default="", metavar="CFG", help="goes with --trainer")


def check_args(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        UserError: flags that do not go together, a dataset that the paper's methods are not known for.
    """
    if bool(args.trainer) != bool(args.cfg) or (args.trainer and args.x_axis != "shots"):
        raise UserError("--trainer and --cfg go together, and with `curves shots` only")
    for name in args.datasets:
        if not args.trainer and name not in DATASETS:
            raise UserError(f'there is no dataset "{name}" in the tables: {nearest(name, DATASETS)}')


@dataclass
class PanelData:
    """What one dataset's panel shows, in percent.

    Attributes:
        curves: name -> x -> accuracies, one for each seed; only finished points.
        published: x -> the paper's accuracy, where it has one.
        failed: x of the paper's failed trainings.
        zero_shot: accuracy of zero-shot CLIP; None if that run is not finished.
    """

    curves: dict[str, dict[float, list[float]]]
    published: dict[float, float]
    failed: list[float]
    zero_shot: float | None

    def arrays(self) -> dict[str, np.ndarray]:
        """Curve -> (points, 3): x, mean, std; the std of one seed is NaN."""
        return {
            name: np.array(
                [[x, *mean_std(values)] if len(values) > 1 else [x, *values, np.nan] for x, values in points.items()]
            )
            for name, points in self.curves.items()
        }


def collect(dataset: str, settings: dict[str, Points], args: argparse.Namespace) -> PanelData:
    """Read the finished runs of a dataset."""
    curves = {}
    for name, points in settings.items():
        found = {x: seed_accuracies(dataset, *point, args) for x, point in points.items()}
        curves[name] = {x: values for x, values in found.items() if values}
    paper: dict[float, float | Absent] = {}
    if args.x_axis in TABLES:
        look_up = published(TABLES[args.x_axis])
        paper = {x: look_up(str(x), dataset) for x in next(iter(settings.values()))}
    zero_shot = seed_accuracies(dataset, Setting(ZERO_SHOT, backbone_of(dataset, args.cfg)), args.shots, args)
    return PanelData(
        {name: points for name, points in curves.items() if points},
        {x: value for x, value in paper.items() if not isinstance(value, Absent)},
        [x for x, value in paper.items() if value is Absent.FAILED],
        zero_shot[0] if zero_shot else None,
    )


def seed_accuracies(dataset: str, setting: Setting, shots: int, args: argparse.Namespace) -> list[float]:
    """The accuracy of each seed, or [] where one is not finished."""
    seeds = args.seeds if setting.is_trained else [1]
    folders = [setting.folder(args.output, dataset, shots, seed) for seed in seeds]
    if not all(os.path.exists(os.path.join(folder, RESULTS)) for folder in folders):
        return []
    return [read_results(folder)["accuracy"] for folder in folders]


def plot_panel(panel, data: PanelData, names: Sequence[str]) -> None:
    """Plot a dataset's curves into `panel`; `names` are those of all curves, which choose the styles."""
    from . import figures

    for name, points in data.arrays().items():
        x, mean, std = points.T
        style, several = figures.style(names.index(name) + 1), ~np.isnan(std)
        panel.plot(x, mean, label=name, **style)
        panel.errorbar(x[several], mean[several], std[several], fmt="none", capsize=2, ecolor=style["color"])
    style = figures.style(len(names) + 1)
    if data.published or data.failed:
        values = [data.published.get(x, math.nan) for x in sorted([*data.published, *data.failed])]
        panel.plot(sorted([*data.published, *data.failed]), values, label="published", **style)
    if data.failed:  # along the bottom edge, whatever the range of accuracies
        panel.plot(
            data.failed,
            [0.03] * len(data.failed),
            "x",
            color=style["color"],
            markersize=6,
            label="published: failed",
            transform=panel.get_xaxis_transform(),
        )
    if data.zero_shot is not None:
        panel.axhline(data.zero_shot, label="zero-shot", color=figures.style(0)["color"])
    if not data.curves:
        panel.text(0.5, 0.5, "no finished run", transform=panel.transAxes, ha="center", va="center", color="0.5")


def plot(panels: dict[str, PanelData], names: Sequence[str], x_axis: str, label: str, ticks: Sequence[float]):
    """A figure with a panel for each dataset.

    Args:
        panels: dataset -> what to plot.
        names: of all curves.
        x_axis, label: what the curves go over, and what the axis is called.
        ticks: of the x axis.
    """
    from . import figures

    with figures.theme():
        figure, axes = figures.subplots(math.ceil(len(panels) / 3), min(len(panels), 3))
        for (dataset, data), panel in zip(panels.items(), axes.flat):
            plot_panel(panel, data, names)
            if x_axis != "depth":
                panel.set_xscale("log", base=2)
            panel.set_xticks(ticks, [str(x) for x in ticks])
            panel.minorticks_off()
            panel.set(title=DATASETS.get(dataset, (dataset, 0))[0], xlabel=label, ylabel="accuracy (%)")
        for panel in list(axes.flat)[len(panels) :]:
            panel.set_axis_off()
        figures.legend(figure)
    return figure


def main(args: argparse.Namespace) -> None:
    """Print, plot and save; points with an unfinished seed are left out.

    Raises:
        UserError: nothing is finished; or as `check_args`.
    """
    check_args(args)
    from . import figures
    from .estimates import over_seeds

    label, settings = settings_along(args.x_axis, args.shots, sorted(set(args.numbers)), args.trainer, args.cfg)
    panels = {dataset: collect(dataset, settings, args) for dataset in args.datasets}
    if not any(data.curves for data in panels.values()):
        raise UserError(
            f"{args.output} holds no finished run for this; make them with scripts/*/few_shots.sh or "
            "`python -m analysis table`"
        )
    figure = plot(panels, list(settings), args.x_axis, label, list(next(iter(settings.values()))))
    rows = [
        (DATASETS.get(dataset, (dataset, 0))[0], name, x, values)
        for dataset, data in panels.items()
        for name, points in data.curves.items()
        for x, values in points.items()
    ]
    numbers: list[tuple[str, float]] = [
        (f"{dataset}, {name}, {label} {x}: accuracy in %", over_seeds(values)) for dataset, name, x, values in rows
    ]
    arrays = {f"{dataset} {name}": xy for dataset, data in panels.items() for name, xy in data.arrays().items()}
    name = "_".join([f"curves-{args.x_axis}", *([*args.datasets, args.trainer, args.cfg] if args.trainer else [])])
    result = figures.Result("Mean over seeds; bars are their standard deviation.", numbers, {name: figure}, arrays)
    shown = [[dataset, name, str(x), format_mean_std(values)] for dataset, name, x, values in rows]
    print(render_table(["dataset", "method", label, "accuracy %"], shown))
    print("written:", *figures.save(result, os.path.join(args.output, "curves"), name), sep="\n  ")
