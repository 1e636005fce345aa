"""`python -m analysis curves shots` (depth, prompts): accuracy over them, from runs that `scripts/` or `table` have made."""

import argparse
import math
import os
from collections.abc import Sequence

import numpy as np

from promptbias.utils.errors import UserError, nearest
from promptbias.engine.run_folder import RESULTS

from promptbias.experiments.runs import BLOCKS, DATASETS, Run, Setting, bias, plain, prompts
from promptbias.experiments.results import add_output, draw, mean_std, read_results, spread
from .table import published

SHOTS = (1, 2, 4, 8, 16)
NUMBERS = (2, 4, 6, 8, 20, 40, 100)
TABLES = {"depth": 2, "prompts": 3}  # of the paper, with its numbers

# x -> (setting, shots)
Points = dict[float, tuple[Setting, int]]


def curves(
    over: str, shots: int, numbers: Sequence[int] = SHOTS, trainer: str = "", cfg: str = ""
) -> tuple[str, dict[str, Points]]:
    """The label of the x axis, and for each curve its settings along x.

    Args:
        shots: of all points where the curve goes over something else; `numbers` are those of a curve over shots.
        trainer, cfg: one curve over shots, of what lies in <trainer>/<cfg>_<n>shots; "": the paper's three methods.
    """
    if over == "shots":
        methods = {"PROMPT": prompts(1), "BIAS": bias(), "OPTIMAL": prompts(10)}
        if trainer:
            methods = {f"{trainer} {cfg}": Setting(trainer, cfg, (), cfg)}
        return "images per class", {name: {n: (setting, n) for n in numbers} for name, setting in methods.items()}
    if over == "depth":
        return "prompt depth (blocks)", {"4+4 prompts": {n: (prompts(4, n), shots) for n in range(1, BLOCKS + 1)}}
    return "prompts in both branches", {"prompts in all blocks": {n: (prompts(n // 2), shots) for n in NUMBERS}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("over", choices=("shots", "depth", "prompts"))
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="one panel each")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="K", help="default: 1 2 3")
    parser.add_argument(
        "--shots", type=int, default=16, metavar="N", help="images per class (default: 16); not for `shots`"
    )
    add_output(parser, "figures go to its curves/")
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


def check(args: argparse.Namespace) -> None:
    """Raises:
    UserError: words that do not go together, a dataset that the paper's methods are not known for.
    """
    if bool(args.trainer) != bool(args.cfg) or args.trainer and args.over != "shots":
        raise UserError("--trainer and --cfg go together, and with `curves shots` only")
    for name in args.datasets:
        if not args.trainer and name not in DATASETS:
            raise UserError(f'there is no dataset "{name}" in the tables: {nearest(name, DATASETS)}')


def main(args: argparse.Namespace) -> None:
    """Points with an unfinished seed are left out.

    Raises:
        UserError: nothing is finished; or as `check`.
    """
    check(args)
    from . import figures

    label, all_curves = curves(args.over, args.shots, sorted(set(args.numbers)), args.trainer, args.cfg)
    figure, axes = figures.subplots(math.ceil(len(args.datasets) / 3), min(len(args.datasets), 3))
    numbers: dict[str, np.ndarray] = {}
    rows: list[list[str]] = []
    for dataset, panel in zip(args.datasets, axes.flat):
        title, before = DATASETS.get(dataset, (dataset, 0))[0], len(rows)
        for index, (name, points) in enumerate(all_curves.items(), 1):
            found = {x: accuracies(dataset, *point, args) for x, point in points.items()}
            found = {x: values for x, values in found.items() if values}
            if not found:
                continue
            mean, std = np.array([mean_std(values) for values in found.values()]).T
            panel.errorbar(list(found), mean, std, label=name, capsize=2, **figures.look(index))
            numbers[f"{dataset} {name}"] = np.stack([list(found), mean, std], axis=1)
            rows += [[title, name, str(x), spread(values)] for x, values in found.items()]
        if args.over in TABLES:
            look_up = published(TABLES[args.over])
            paper = {x: look_up(str(x), dataset) for x in next(iter(all_curves.values()))}
            paper = {x: value for x, value in paper.items() if value is not None}
            failed = [x for x, value in paper.items() if math.isnan(value)]
            style = figures.look(len(all_curves) + 1)
            if paper:
                panel.plot(list(paper), list(paper.values()), label="published", **style)
            if failed:  # at the foot of the panel, whatever its accuracies are
                panel.plot(
                    failed,
                    [0.03] * len(failed),
                    "x",
                    color=style["color"],
                    markersize=6,
                    label="published: failed",
                    transform=panel.get_xaxis_transform(),
                )
        zero_shot = accuracies(dataset, plain_beside(args.cfg), args.shots, args)
        if zero_shot:
            panel.axhline(zero_shot[0], label="zero-shot", color=figures.look(0)["color"])
        if args.over != "depth":
            panel.set_xscale("log", base=2)
        ticks = list(next(iter(all_curves.values())))
        panel.set_xticks(ticks, [str(x) for x in ticks])
        panel.minorticks_off()
        panel.set(title=title, xlabel=label, ylabel="accuracy (%)")
        if len(rows) == before:
            panel.text(0.5, 0.5, "no finished run", transform=panel.transAxes, ha="center", va="center", color="0.5")
    if not rows:
        raise UserError(
            f"{args.output} holds no finished run for this; make them with scripts/*/few_shots.sh or "
            "`python -m analysis table`"
        )
    for panel in list(axes.flat)[len(args.datasets) :]:
        panel.set_axis_off()
    figures.legend(figure)
    name = "_".join([f"curves-{args.over}", *([*args.datasets, args.trainer, args.cfg] if args.trainer else [])])
    result = figures.Result("Mean over seeds; bars are their standard deviation.", [], {name: figure}, numbers)
    print(draw(["dataset", "method", label, "accuracy %"], rows))
    print("written:", *figures.save(result, os.path.join(args.output, "curves"), name), sep="\n  ")


def plain_beside(cfg: str) -> Setting:
    """Zero-shot CLIP with the backbone that a configuration's name begins with; of the dataset's own where none does."""
    backbone = next((name for name in ("tiny", "vit_b16") if cfg.startswith(name)), None)
    return Setting("ZeroshotCLIP", backbone, (), backbone) if backbone else plain()


def accuracies(dataset: str, setting: Setting, shots: int, args: argparse.Namespace) -> list[float]:
    """Of all seeds, or [] where one is not finished."""
    seeds = args.seeds if setting.learns else [1]
    folders = [Run(setting, dataset, seed, shots, "", args.output).folder for seed in seeds]
    if not all(os.path.exists(os.path.join(folder, RESULTS)) for folder in folders):
        return []
    return [read_results(folder)["accuracy"] for folder in folders]
