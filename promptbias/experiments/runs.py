"""The runs behind the paper's tables: where each lies, the command that makes it, and whether it is finished.

Folders and commands are those of `scripts/`, so what one has made the other finds. Like them, they are for the project's
folder: `train.py` and `configs/` are looked for where the process is.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import yaml

from promptbias.datasets.sources import SOURCES
from promptbias.engine.run_folder import CONFIG, finished, refuse_other_config
from promptbias.experiments.results import Results, read_results
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write

BLOCKS = 12
DIVERGED = (
    "diverged.txt"  # in the folder of a run whose loss was not finite: what it said. Without it the run is tried again
)
# What changes nothing without learning; as in scripts/common.sh, whose runs these are.
TRAINING_KEYS = (
    "OPTIM.",
    "TRAIN.",
    "DATALOADER.TRAIN_X.",
    "DATALOADER.NUM_WORKERS",
    "TRAINER.IVLP.",
    "TRAINER.BIASTUNING.",
)

# Rough seconds on two CPU cores: of a training image, of a class's text in a training step, of a test image; of starting.
SECONDS = {"vit_b16": (0.18, 0.006, 0.06), "tiny": (0.006, 0.004, 0.002)}
START = 6.0

# Name of the configuration -> (name in the paper, number of classes), in the order of Tables 1 and 2.
DATASETS: dict[str, tuple[str, int]] = {
    "imagenet": ("ImageNet", 1000),
    "caltech101": ("Caltech101", 100),
    "dtd": ("DTD", 47),
    "eurosat": ("EuroSAT", 10),
    "fgvc_aircraft": ("FGVCAircraft", 100),
    "food101": ("Food101", 101),
    "oxford_flowers": ("OxfordFlowers", 102),
    "oxford_pets": ("OxfordPets", 37),
    "stanford_cars": ("StanfordCars", 196),
    "sun397": ("SUN397", 397),
    "ucf101": ("UCF101", 101),
    "digits": ("Digits", 10),
}


@dataclass(frozen=True)
class Setting:
    """A method and its configuration, on whatever dataset.

    Attributes:
        trainer: its name in the registry.
        cfg: a file of configs/trainers/<trainer>/, with {} where the backbone's name stands.
        options: KEY VALUE pairs on top of it.
        name: name of the configuration in folders, with {} likewise.
    """

    trainer: str
    cfg: str
    options: tuple[str, ...] = ()
    name: str = ""

    @property
    def learns(self) -> bool:
        return self.trainer != "ZeroshotCLIP"


def plain(template: str = "") -> Setting:
    """Zero-shot CLIP with the dataset's own template, or with another."""
    options = ("TRAINER.ZEROSHOTCLIP.TEMPLATE", template) if template else ()
    return Setting("ZeroshotCLIP", "{}", options, "{}_generic" if template else "{}")


def bias(template: str = "") -> Setting:
    """Bias tuning with the dataset's own template, or with another."""
    options = ("TRAINER.BIASTUNING.TEMPLATE", template) if template else ()
    return Setting("BiasTuning", "{}", options, "{}_generic" if template else "{}")


def prompts(number: int, depth: int = BLOCKS) -> Setting:
    """IVLP with `number` prompts in each branch, down to block `depth`. Up to four text prompts start from words."""
    known = {(1, 12): "prompt", (4, 1): "shallow", (4, 12): "deep", (10, 12): "optimal"}
    if (number, depth) in known:
        cfg = "{}_" + known[number, depth]
        return Setting("IVLP", cfg, (), cfg)
    if depth != BLOCKS:
        depths = ("TRAINER.IVLP.PROMPT_DEPTH_VISION", str(depth), "TRAINER.IVLP.PROMPT_DEPTH_TEXT", str(depth))
        return Setting("IVLP", "{}_deep", depths, f"{{}}_deep_depth{depth}")
    numbers = ("TRAINER.IVLP.N_CTX_VISION", str(number), "TRAINER.IVLP.N_CTX_TEXT", str(number))
    return Setting("IVLP", "{}_deep" if number <= 4 else "{}_optimal", numbers, f"{{}}_{number}+{number}prompts")


def backbone_of(dataset: str) -> str:
    """What the names of the configurations for a dataset begin with, as in scripts/common.sh."""
    return "tiny" if dataset == "digits" else "vit_b16"


def generic_for(dataset: str) -> str:
    """GENERIC, or "" where that is the dataset's own template anyway: its runs are then those with its own."""
    from promptbias.model import templates

    with open(os.path.join("configs", "datasets", dataset + ".yaml"), encoding="utf-8") as file:
        name = yaml.safe_load(file)["DATASET"]["NAME"]
    return templates.GENERIC if name in templates.TEMPLATES else ""


class Diverged(Exception):
    """A training whose loss was not finite."""


@dataclass(frozen=True)
class Run:
    """One run of a setting on a dataset, `shots` images per class.

    Attributes:
        data, output: folders of the datasets and of the runs.
        extra: KEY VALUE pairs on top of every configuration.
    """

    setting: Setting
    dataset: str
    seed: int
    shots: int
    data: str
    output: str
    extra: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        name = self.setting.name.format(backbone_of(self.dataset))
        trainer = os.path.join(self.output, self.dataset, self.setting.trainer)
        if not self.setting.learns:
            return os.path.join(trainer, name)
        return os.path.join(trainer, f"{name}_{self.shots}shots", f"seed{self.seed}")

    @property
    def words(self) -> list[str]:
        """What stands after `python train.py`."""
        trainer, cfg = self.setting.trainer, self.setting.cfg.format(backbone_of(self.dataset))
        pairs = list(zip(self.extra[::2], self.extra[1::2]))
        if self.setting.learns:
            pairs.insert(0, ("DATASET.NUM_SHOTS", str(self.shots)))
        else:
            pairs = [pair for pair in pairs if not pair[0].startswith(TRAINING_KEYS)]
        return [
            "--root",
            self.data,
            "--seed",
            str(self.seed),
            "--trainer",
            trainer,
            "--dataset-config-file",
            f"configs/datasets/{self.dataset}.yaml",
            "--config-file",
            f"configs/trainers/{trainer}/{cfg}.yaml",
            "--output-dir",
            self.folder,
            "--resume",
            self.folder,
            *(word for pair in pairs for word in pair),
            *self.setting.options,
        ]

    @property
    def command(self) -> str:
        """For a shell, in the project's folder."""
        return "python train.py " + shlex.join(self.words)

    def config(self):
        """The config that the run has or will have."""

        import promptbias.datasets.reader  # noqa: F401 (its config nodes)
        import train

        return train.setup_cfg(train.parse_args(self.words))

    def results(self) -> Results | None:
        """What it came to; None if it is not finished.

        Raises:
            UserError: its folder holds a run with another config.
        """
        return (
            read_results(self.folder) if os.path.isdir(self.folder) and finished(self.config(), self.folder) else None
        )

    def divergence(self) -> str:
        """What stopped its training for good, if its loss was not finite at an earlier call; otherwise "".

        Raises:
            UserError: its folder holds a run with another config.
        """
        path = os.path.join(self.folder, DIVERGED)
        if not os.path.exists(path):
            return ""
        if os.path.exists(os.path.join(self.folder, CONFIG)):
            refuse_other_config(self.config(), self.folder)
        with open(path, encoding="utf-8") as file:
            return file.read().strip()

    def perform(self, threads: int | None = None) -> Results:
        """Run it, or go on with it, and return what it came to.

        Args:
            threads: of the CPU; None leaves torch its choice.

        Raises:
            Diverged: the loss was not finite. A file in its folder, DIVERGED, says so from then on.
            UserError: anything else went wrong.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else None
        done = subprocess.run(
            [sys.executable, "train.py", *self.words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if done.returncode == 0:
            return read_results(self.folder)
        message = (done.stderr.strip() or f"error: stopped with status {done.returncode}").splitlines()[-1]
        message = message.removeprefix("error: ")
        if not message.startswith("the loss is"):
            raise UserError(f"{self.folder}: {message}")
        with atomic_write(os.path.join(self.folder, DIVERGED)) as file:
            file.write(message + "\n")
        raise Diverged(message)

    def guess_seconds(self) -> float:
        """About how long it takes on two CPU cores; rates as measured there, see SECONDS."""
        image, text, test = SECONDS[backbone_of(self.dataset)]
        cfg, (_, classes) = self.config(), DATASETS[self.dataset]
        seconds = START + SOURCES[self.dataset].counts[2] * test
        if self.setting.learns:
            images, batch = self.shots * classes, cfg.DATALOADER.TRAIN_X.BATCH_SIZE
            steps = max(images // batch, 1) * cfg.OPTIM.MAX_EPOCH
            seconds += steps * (min(batch, images) * image + classes * text)
        return seconds


def estimate(todo: Sequence[Run], done: dict[Run, Results]) -> float:
    """Seconds that the runs `todo` will take: as others of the same dataset and trainer took, or a guess."""
    took: dict[tuple[str, str], list[float]] = {}
    for run, results in done.items():
        took.setdefault((run.dataset, run.setting.trainer), []).append(START + results["seconds"]["train"])
    known = {key: median(seconds) for key, seconds in took.items()}
    return sum(known.get((run.dataset, run.setting.trainer)) or run.guess_seconds() for run in todo)
