"""Many runs: several at a time, with a progress bar, and how long they will take."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tqdm import tqdm

from promptbias.experiments.executors.executor import Executor
from promptbias.experiments.layout import backbone_of
from promptbias.experiments.paper import DATASETS
from promptbias.experiments.results import Results
from promptbias.experiments.runs import Diverged, Run
from promptbias.utils.errors import UserError

# Measured on two CPU cores, in seconds: per training image, per class text in a training step, per test image.
SECONDS = {"vit_b16": (0.18, 0.006, 0.06), "tiny": (0.006, 0.004, 0.002)}
START = 6.0  # seconds until a run begins


@dataclass
class Outcome:
    """What went wrong while runs were performed.

    Attributes:
        diverged: trainings whose loss was not finite, and what they said.
        failed_datasets: datasets that had to be left out, and why.
    """

    diverged: dict[Run, str] = field(default_factory=dict)
    failed_datasets: dict[str, str] = field(default_factory=dict)


def run_all(todo: Sequence[Run], done: dict[Run, Results], executor: Executor) -> Outcome:
    """Perform the runs `todo`, several at a time, and enter their results in `done`.

    A training that diverges does not stop the others; any other error leaves out the rest of its dataset.
    """
    outcome, waiting = Outcome(), deque(todo)
    running: dict[Any, Run] = {}
    with executor, tqdm(total=len(todo), unit="run", dynamic_ncols=True) as bar:
        while waiting or running:
            while waiting and len(running) < executor.room():
                run = waiting.popleft()
                if run.dataset not in outcome.failed_datasets:
                    running[executor.start(run)] = run
                else:
                    bar.update()
            if running:
                handle = executor.first_ended(running)
                run = running.pop(handle)
                enter(run, executor.said(handle), done, outcome)
                bar.set_description(run.folder)
                bar.update()
    return outcome


def enter(run: Run, said: str, done: dict[Run, Results], outcome: Outcome) -> None:
    """Enter the results of a run that ended in `done`, or what went wrong in `outcome`."""
    try:
        done[run] = run.conclude(said)
    except Diverged as error:
        outcome.diverged[run] = str(error)
    except UserError as error:
        outcome.failed_datasets.setdefault(run.dataset, str(error))


def estimate_seconds(todo: Sequence[Run], done: dict[Run, Results]) -> float:
    """Seconds that the runs `todo` will take: as others of the same dataset and trainer took, or a guess."""
    took: dict[tuple[str, str], list[float]] = {}
    for run, results in done.items():
        took.setdefault((run.dataset, run.trainer), []).append(START + results["seconds"]["train"])
    known = {key: median(seconds) for key, seconds in took.items()}
    return sum(known.get((run.dataset, run.trainer)) or guess_seconds(run) for run in todo)


def guess_seconds(run: Run) -> float:
    """About how long a run on a dataset of the tables takes on two CPU cores, from SECONDS."""
    from promptbias.datasets.sources import SOURCES

    image, text, test = SECONDS[backbone_of(run.dataset, run.cfg)]
    seconds = START + SOURCES[run.dataset].counts[2] * test
    if run.is_trained:
        cfg, classes = run.config(), DATASETS[run.dataset][1]
        images, batch = cfg.DATASET.NUM_SHOTS * classes, cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        steps = max(images // batch, 1) * cfg.OPTIM.MAX_EPOCH
        seconds += steps * (min(batch, images) * image + classes * text)
    return seconds
