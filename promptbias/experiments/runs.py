"""One run: where it is, the command that performs it, whether it is finished, and how to resume it.

A run is `python -m promptbias train ...` in its own process. That skips a finished run and resumes an interrupted one,
so performing a run again is always right.
"""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from promptbias.experiments.layout import ZERO_SHOT, backbone_of, dataset_file, method_file
from promptbias.experiments.results import Results, read_results
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write, regular_file
from promptbias.utils.paths import CHECKOUT, IN_CHECKOUT
from promptbias.utils.startup import Terminated, stopped

PROGRAM = ("-m", "promptbias")
# In the folder of a run whose loss was not finite: what it said. Without it the run is tried again.
DIVERGED = "diverged.txt"
DIVERGENCE = ("the loss is", "the parameters are", "the logits are")  # how it begins

# What cannot change the result of zero-shot CLIP.
TRAINING_NODES = ("OPTIM.", "TRAIN.", "DATALOADER.TRAIN_X.", "DATALOADER.NUM_WORKERS")


def matters_to_zero_shot(key: str) -> bool:
    """Whether a config key can change the result of zero-shot CLIP.

    >>> [matters_to_zero_shot(key) for key in ("INPUT.SIZE", "OPTIM.LR", "TRAINER.IVLP.PREC")]
    [True, False, False]
    """
    other_method = key.startswith("TRAINER.") and not key.startswith(f"TRAINER.{ZERO_SHOT.upper()}.")
    return not (other_method or key.startswith(TRAINING_NODES))


def for_zero_shot(options: Sequence[str]) -> tuple[str, ...]:
    """Those KEY VALUE pairs that matter to zero-shot CLIP, so that all methods share one zero-shot run."""
    pairs = zip(options[::2], options[1::2])
    return tuple(word for pair in pairs if matters_to_zero_shot(pair[0]) for word in pair)


def environment(**variables: str) -> dict[str, str]:
    """The environment for `python -m promptbias` in a process of its own; a checkout need not be installed."""
    path = [CHECKOUT] if IN_CHECKOUT else []
    path += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {**os.environ, **({"PYTHONPATH": os.pathsep.join(path)} if path else {}), **variables}


def call(argv: Sequence[str], quiet: bool = False) -> int:
    """`promptbias argv` in a process of its own that writes to this one's stderr and, unless it is quiet, stdout.

    Returns:
        Its exit status, as a shell tells it.
    """
    output = subprocess.DEVNULL if quiet else None
    with child([sys.executable, *PROGRAM, *argv], stdout=output, env=environment()) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt as stop:
            stopped()  # the run says what happened, and its status is ours
            if isinstance(stop, Terminated):  # a terminal interrupts both, SIGTERM is for this process alone
                process.terminate()
            status = process.wait()
    return status if status >= 0 else 128 - status


_children: set[subprocess.Popen] = set()


@contextlib.contextmanager
def child(*args: Any, **options: Any) -> Iterator[subprocess.Popen]:
    """`subprocess.Popen`, known to `terminate_children` while it runs."""
    with subprocess.Popen(*args, **options) as process:
        _children.add(process)
        try:
            yield process
        finally:
            _children.discard(process)


def terminate_children() -> None:
    """End the runs that other threads wait for: a batch system sends SIGTERM to this process alone."""
    for process in list(_children):
        process.terminate()


class Diverged(Exception):
    """A training whose loss was not finite."""


@dataclass(frozen=True)
class Run:
    """One run of a trainer with one configuration and seed on a dataset.

    Attributes:
        trainer: its name in Dassl's registry.
        dataset, cfg: names of YAML files in configs/datasets/ and configs/trainers/<trainer>/.
        folder: where its files go.
        data: folder of the datasets.
        options: KEY VALUE pairs on top of the configuration.
        model_dir: folder of the run whose checkpoint it only tests; "": it trains.
    """

    trainer: str
    dataset: str
    cfg: str
    folder: str
    seed: int
    data: str
    options: tuple[str, ...] = ()
    model_dir: str = ""

    @property
    def argv(self) -> list[str]:
        """The flags of `promptbias train`."""
        flags = {
            "--root": self.data,
            "--seed": str(self.seed),
            "--trainer": self.trainer,
            "--dataset-config-file": dataset_file(self.dataset),
            "--config-file": method_file(self.trainer, self.cfg),
            "--output-dir": self.folder,
            "--resume": self.folder,
        }
        test = ["--eval-only", "--model-dir", self.model_dir] if self.model_dir else []
        return [*(word for flag in flags.items() for word in flag), *test, *self.options]

    @property
    def command(self) -> str:
        """For a shell."""
        return shlex.join(["python", *PROGRAM, "train", *self.argv])

    @property
    def is_trained(self) -> bool:
        return self.trainer != ZERO_SHOT and not self.model_dir

    def config(self):
        """The config that the run has or will have."""
        from promptbias.engine.config import setup_cfg
        from promptbias.engine.discovery import register_all
        from promptbias.engine.train import parse_args

        register_all()
        return setup_cfg(parse_args(self.argv))

    def results(self) -> Results | None:
        """Its results; None if it is not finished.

        Raises:
            UserError: its folder holds a run with another config.
        """
        if not os.path.isdir(self.folder):
            return None
        from promptbias.engine.run_folder import finished
        from promptbias.engine.train import eval_checkpoint_sha256, parse_args

        cfg = self.config()
        sha256 = eval_checkpoint_sha256(parse_args(self.argv), cfg) if self.model_dir else None
        return read_results(self.folder) if finished(cfg, self.folder, sha256) else None

    def divergence(self) -> str:
        """The error that stopped its training for good, if its loss was not finite at an earlier call; otherwise "".

        Raises:
            UserError: its folder holds a run with another config.
        """
        path = os.path.join(self.folder, DIVERGED)
        if not os.path.exists(path):
            return ""
        from promptbias.engine.run_folder import CONFIG, refuse_other_config

        if os.path.exists(os.path.join(self.folder, CONFIG)):
            refuse_other_config(self.config(), self.folder)
        with open(regular_file(path), encoding="utf-8", errors="replace") as file:
            return file.read().strip()

    def perform_in_foreground(self) -> int:
        """Perform or resume it; its progress bar and its errors are shown, and what it prints is in its log.txt.

        Returns:
            Its exit status; if that is not 0, it has said why on stderr.
        """
        return call(["train", *self.argv], quiet=True)

    def perform(self, threads: int | None = None) -> str:
        """Perform or resume it, quietly.

        Args:
            threads: of the CPU; None leaves torch its choice.

        Returns:
            Why it failed; "" where it is finished.
        """
        with child(
            [sys.executable, *PROGRAM, "train", *self.argv],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(**({"OMP_NUM_THREADS": str(threads)} if threads else {})),
        ) as process:
            _, said = process.communicate()
        if process.returncode == 0:
            return ""
        message = (said.strip() or f"error: stopped with status {process.returncode}").splitlines()[-1]
        return message.removeprefix("error: ")

    def conclude(self, message: str) -> Results:
        """The results of the run that ended with `message`.

        Raises:
            Diverged: the loss was not finite. A file in its folder, DIVERGED, says so from then on.
            UserError: anything else went wrong.
        """
        if not message:
            return read_results(self.folder)
        if not message.startswith(DIVERGENCE):
            raise UserError(f"{self.folder}: {message}")
        with atomic_write(os.path.join(self.folder, DIVERGED)) as file:
            file.write(message + "\n")
        raise Diverged(message)


@dataclass(frozen=True)
class Setting:
    """A method and its configuration, on any dataset.

    Attributes:
        trainer: its name in Dassl's registry.
        cfg: a configuration of the trainer, with {} for the name of the dataset's backbone.
        options: KEY VALUE pairs on top of it.
        name: its name in folders, with {} likewise; "": that of the configuration.
    """

    trainer: str
    cfg: str
    options: tuple[str, ...] = ()
    name: str = ""

    @property
    def is_trained(self) -> bool:
        return self.trainer != ZERO_SHOT

    def folder(self, output: str, dataset: str, shots: int, seed: int) -> str:
        """The folder of a run below `output`; zero-shot CLIP has neither shots nor seeds."""
        name = (self.name or self.cfg).format(backbone_of(dataset))
        trainer = os.path.join(output, dataset, self.trainer)
        if not self.is_trained:
            return os.path.join(trainer, name)
        return os.path.join(trainer, f"{name}_{shots}shots", f"seed{seed}")

    def run(self, dataset: str, seed: int, shots: int, data: str, output: str, extra: Sequence[str] = ()) -> Run:
        """The run on a dataset.

        Args:
            shots: images per class.
            data, output: folders of the datasets and of the runs.
            extra: KEY VALUE pairs on top of the configuration; the setting's own options win.
        """
        extra = ("DATASET.NUM_SHOTS", str(shots), *extra) if self.is_trained else for_zero_shot(extra)
        cfg = self.cfg.format(backbone_of(dataset))
        folder = self.folder(output, dataset, shots, seed)
        return Run(self.trainer, dataset, cfg, folder, seed, data, (*extra, *self.options))
