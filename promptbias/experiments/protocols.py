"""The paper's experiments, for any method: `promptbias experiment METHOD PROTOCOL ... [CFG] [KEY VALUE ...]`.

protocols:
  main DATASET SHOTS       few-shot
  main DATASET             the same for ZeroshotCLIP, which trains nothing
  few_shots DATASET        few-shot with 1, 2, 4, 8 and 16 shots ($SHOTS), and the curve
  base2new DATASET SHOTS   trained on the first half of the classes, tested on both halves
  xd SHOTS                 trained on ImageNet ($SOURCE), tested on ten other datasets ($TARGETS)
  dg SHOTS                 trained on ImageNet ($SOURCE), tested on its four variants ($TARGETS)
                           with SOURCE=digits, on the embedded datasets and on the four shifts of its test images

METHOD is a trainer with a folder in configs/trainers/. CFG is a file in that folder; the backbone in its name may be
left out. KEY VALUE pairs override it. Finished runs are skipped, interrupted ones resumed.

environment:
  SEEDS    seeds to run            (default: 1 2 3)
  DATA     folder of the datasets  (default: data)
  OUTPUT   where the runs go       (default: output)
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from promptbias.experiments import layout
from promptbias.experiments.results import table_of_base_and_new, table_of_folders, table_of_seeds
from promptbias.experiments.runs import Run, call, for_zero_shot
from promptbias.utils.errors import UserError, nearest
from promptbias.utils.paths import IN_CHECKOUT

# What each protocol takes before [CFG] [KEY VALUE ...].
ARGUMENTS = {
    "main": ["DATASET", "SHOTS"],
    "few_shots": ["DATASET"],
    "base2new": ["DATASET", "SHOTS"],
    "xd": ["SHOTS"],
    "dg": ["SHOTS"],
}
SHOTS, SOURCE = "1 2 4 8 16", "imagenet"
# Keys that a protocol sets, and what says their values.
SET_BY = {
    "SEED": "SEEDS in the environment",
    "OUTPUT_DIR": "OUTPUT in the environment",
    "RESUME": "OUTPUT in the environment",
    "DATASET.ROOT": "DATA in the environment",
    "DATASET.NAME": "DATASET",
    "DATASET.NUM_SHOTS": "SHOTS",
    "TRAINER.NAME": "METHOD",
}
TARGETS = {
    "xd": "caltech101 oxford_pets stanford_cars oxford_flowers food101 fgvc_aircraft sun397 dtd eurosat ucf101",
    "dg": "imagenetv2 imagenet_sketch imagenet_a imagenet_r",
}
EMBEDDED_TARGETS = {"xd": "letters lower_letters cluttered_digits", "dg": " ".join(layout.SHIFTED)}  # of SOURCE=digits


@dataclass(frozen=True)
class Experiment:
    """A method with one configuration, its seeds, and where data and runs are.

    Its methods perform runs; one that fails ends the program with the status of the run, which has said why.
    """

    method: str
    cfg: str
    options: tuple[str, ...]
    backbone: str
    seeds: tuple[int, ...]
    data: str
    output: str

    def perform(self, run: Run) -> None:
        status = run.perform_in_foreground()
        if status:
            sys.exit(status)

    def runs_folder(self, dataset: str, shots: str, suffix: str = "") -> str:
        """The folder of the method's runs seed<k> on a dataset."""
        return os.path.join(self.output, dataset, self.method, f"{self.cfg}_{shots}shots{suffix}")

    def zero_shot(self, dataset: str, suffix: str = "", *options: str) -> str:
        """Test zero-shot CLIP, the baseline; returns the folder of its run."""
        folder = os.path.join(self.output, dataset, layout.ZERO_SHOT, self.backbone + suffix)
        pairs = (*options, *for_zero_shot(self.options))
        self.perform(Run(layout.ZERO_SHOT, dataset, self.backbone, folder, 1, self.data, pairs))
        return folder

    def seed_runs(self, folder: str, dataset: str, options: Sequence[str], models: str = "") -> str:
        """Train with every seed, or test what was trained in `models`; returns the folder of these runs."""
        for seed in self.seeds:
            name, pairs = f"seed{seed}", (*options, *self.options)
            model_dir = os.path.join(models, name) if models else ""
            path = os.path.join(folder, name)
            self.perform(Run(self.method, dataset, self.cfg, path, seed, self.data, pairs, model_dir))
        return folder


def main_protocol(experiment: Experiment, dataset: str, shots: str) -> None:
    """Zero-shot, then the method with every seed, then one table."""
    zero_shot = experiment.zero_shot(dataset)
    folder = experiment.runs_folder(dataset, shots)
    experiment.seed_runs(folder, dataset, ("DATASET.NUM_SHOTS", shots))
    print(table_of_seeds(folder, [zero_shot], experiment.seeds), flush=True)


def zero_shot_protocol(experiment: Experiment, dataset: str) -> None:
    """The zero-shot line alone."""
    folder = os.path.join(experiment.output, dataset, experiment.method, experiment.cfg)
    experiment.perform(Run(experiment.method, dataset, experiment.cfg, folder, 1, experiment.data, experiment.options))
    print(table_of_seeds("", [folder], None))


def few_shots_protocol(experiment: Experiment, dataset: str, numbers: Sequence[str]) -> None:
    """The main protocol with each number of shots, then the accuracy over shots."""
    for shots in numbers:
        print(f"{shots} shots", flush=True)
        main_protocol(experiment, dataset, shots)
    curve = {
        "--datasets": [dataset],
        "--trainer": [experiment.method],
        "--cfg": [experiment.cfg],
        "--numbers": numbers,
        "--seeds": map(str, experiment.seeds),
        "--output": [experiment.output],
    }
    # A figure, which stands above the experiments and brings matplotlib: a command of its own.
    argv = [word for flag, values in curve.items() for word in (flag, *values)]
    sys.exit(call(["analysis", "curves", "shots", *argv]))


def base_to_new_protocol(experiment: Experiment, dataset: str, shots: str) -> None:
    """Train on the first half of the classes, test on it and on the other half."""
    half = {part: ("DATASET.SUBSAMPLE_CLASSES", part) for part in ("base", "new")}
    zero_shot = [experiment.zero_shot(dataset, "_" + part, *options) for part, options in half.items()]
    base, new = (experiment.runs_folder(dataset, shots, "_" + part) for part in half)
    number = ("DATASET.NUM_SHOTS", shots)
    experiment.seed_runs(base, dataset, (*number, *half["base"]))
    experiment.seed_runs(new, dataset, (*number, *half["new"]), models=base)
    print(table_of_base_and_new([base, new], zero_shot, experiment.seeds))


def transfer_protocol(experiment: Experiment, source: str, targets: Sequence[str], shots: str) -> None:
    """The main protocol on `source`, then tests on `targets` without training. The second table is of these."""
    # First, so that a target that is not there is known before hours of training.
    zero_shot = [experiment.zero_shot(target) for target in targets]
    main_protocol(experiment, source, shots)
    models = experiment.runs_folder(source, shots)
    folders = [
        experiment.seed_runs(experiment.runs_folder(target, shots, f"_from_{source}"), target, (), models)
        for target in targets
    ]
    table = table_of_folders if len(folders) > 1 else lambda runs, *rest: table_of_seeds(runs[0], *rest)
    print(table(folders, zero_shot, experiment.seeds))


def check_shots(shots: str) -> str:
    """The number of shots as it was given.

    Raises:
        UserError: not a positive whole number.
    """
    if not re.fullmatch("[1-9][0-9]{0,8}", shots):
        raise UserError(f'SHOTS is "{shots}", but must be a whole number of images per class')
    return shots


def read_seeds() -> tuple[int, ...]:
    """$SEEDS.

    Raises:
        UserError: as `layout.parse_seeds`.
    """
    return layout.parse_seeds(os.environ.get("SEEDS") or "1 2 3", "SEEDS")


def read_folder(variable: str) -> str:
    """$DATA or $OUTPUT, absolute.

    Raises:
        UserError: something is there that is not a folder.
    """
    path = os.path.abspath(os.path.expanduser(layout.default_folder(variable, variable.lower())))
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"{variable} is {path}, but must be a folder")
    return path


def check_pairs(pairs: Sequence[str]) -> None:
    """Refuse flags, and keys that the protocol sets.

    Raises:
        UserError: one of these; says what to give instead.
    """
    for key in pairs[::2]:
        if key.startswith("-"):
            raise UserError(
                f"{key} is no option of an experiment: those are KEY VALUE pairs, and SEEDS, DATA and OUTPUT come from "
                "the environment"
            )
    layout.refuse_set_keys(pairs, SET_BY)


def read_experiment(method: str, dataset: str, argv: Sequence[str]) -> Experiment:
    """What [CFG] [KEY VALUE ...] and the environment say.

    Raises:
        UserError: no such dataset or configuration, seeds that are not numbers, a key without value, or as
            `read_folder` and `check_pairs`.
    """
    seeds = read_seeds()
    layout.check_dataset(dataset)
    if argv and argv[0].startswith("-"):
        check_pairs(argv)
    if len(argv) % 2 and argv[0].isupper():
        raise UserError(f"options come as KEY VALUE pairs, but there are {len(argv)} words: {' '.join(argv)}")
    if len(argv) % 2:
        cfg, argv = layout.find_cfg(method, dataset, argv[0]), argv[1:]
    elif argv and not re.search("[A-Z]", argv[0]):  # keys are in capitals, so this is a CFG
        raise UserError(f"options come as KEY VALUE pairs, but these do not: {' '.join(argv[1:])}")
    else:
        cfg = layout.default_cfg(method, dataset)
    check_pairs(argv)
    backbone, data, output = layout.backbone_of(dataset, cfg), read_folder("DATA"), read_folder("OUTPUT")
    return Experiment(method, cfg, tuple(argv), backbone, seeds, data, output)


def perform(method: str, protocol: str, argv: Sequence[str]) -> None:
    """Perform one protocol.

    Args:
        method, protocol: known names.
        argv: DATASET, SHOTS (see ARGUMENTS), [CFG], [KEY VALUE ...].

    Raises:
        UserError: `argv` or the environment is wrong; nothing has been run then.
    """
    read_seeds()
    names = ["DATASET"] if method == layout.ZERO_SHOT else ARGUMENTS[protocol]
    if len(argv) < len(names):
        program = "bash scripts/run.sh" if IN_CHECKOUT else "promptbias experiment"
        raise UserError(f"usage: {program} {method} {protocol} {' '.join(names)} [CFG] [KEY VALUE ...]")
    given, rest = dict(zip(names, argv)), argv[len(names) :]
    shots = check_shots(given["SHOTS"]) if "SHOTS" in given else ""
    dataset = given.get("DATASET", os.environ.get("SOURCE") or SOURCE)
    usual = EMBEDDED_TARGETS if dataset == "digits" else TARGETS
    targets = (os.environ.get("TARGETS") or usual[protocol]).split() if protocol in TARGETS else []
    numbers = (os.environ.get("SHOTS") or SHOTS).split() if protocol == "few_shots" else []
    for target in targets:
        layout.check_dataset(target)
    experiment = read_experiment(method, dataset, rest)
    if protocol == "base2new" and "DATASET.SUBSAMPLE_CLASSES" in rest:
        raise UserError("base2new sets DATASET.SUBSAMPLE_CLASSES itself; leave it out")
    for number in numbers:
        check_shots(number)
    if method == layout.ZERO_SHOT:
        zero_shot_protocol(experiment, dataset)
    elif protocol == "few_shots":
        few_shots_protocol(experiment, dataset, numbers)
    elif protocol in TARGETS:
        transfer_protocol(experiment, dataset, targets, shots)
    else:
        {"main": main_protocol, "base2new": base_to_new_protocol}[protocol](experiment, dataset, shots)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        UserError: a name that is not known; or as `perform`.
        SystemExit: a run failed, with its status.
    """
    parser = argparse.ArgumentParser(
        prog="promptbias experiment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("protocol", metavar="PROTOCOL")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    args = parser.parse_args(argv)
    method = layout.find_method(args.method)
    if args.protocol not in ARGUMENTS:
        raise UserError(f'there is no protocol "{args.protocol}": {nearest(args.protocol, ARGUMENTS)}')
    if method == layout.ZERO_SHOT and args.protocol != "main":
        raise UserError(f"{method} trains nothing, so that its only protocol is main")
    perform(method, args.protocol, args.arguments)
