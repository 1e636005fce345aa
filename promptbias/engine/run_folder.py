"""What a run leaves in its folder besides checkpoints: `config.yaml` and `results.json`. Needs no torch."""

import contextlib
import glob
import json
import os
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from yacs.config import CfgNode

from promptbias.engine.config import YACS_ERRORS, flatten
from promptbias.engine.predictions import PREDICTIONS
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write, fcntl, regular_file, remove_partial_files
from promptbias.utils.seals import TEXT_HEAD, read_json, read_text, seal_json, seal_text
from promptbias.utils.yaml_files import read_yaml

CONFIG, RESULTS, STATE = "config.yaml", "results.json", "training_state.pth"
LOCK = ".lock"  # open in the process that trains or tests here
COMPILE = "COMPILE"  # the node of a config that says what prompts the biases stand for (`promptbias compile`)

# Keys that say where or how a run is done, and not what comes out of it.
NON_IDENTITY_KEYS = (
    "OUTPUT_DIR",
    "RESUME",
    "DATASET.ROOT",
    "COMPILE.RUN",
    "DATALOADER.TEST.BATCH_SIZE",
    "VERBOSE",
    "TRAIN.PRINT_FREQ",
    "TRAIN.CHECKPOINT_FREQ",
    "TEST.COMPUTE_CMAT",
    "TEST.PER_CLASS_RESULT",
)

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class Seconds(msgspec.Struct):
    train: float
    test: float | None = None


class Counts(msgspec.Struct):
    train: Annotated[int, msgspec.Meta(ge=0)]
    test: Annotated[int, msgspec.Meta(ge=0)]


class Results(msgspec.Struct):
    """What is read of `results.json`; it holds more. Those of version 0.1 name no classes."""

    accuracy: Percent
    macro_f1: Percent
    evaluated: str | None = None  # sha256 of the checkpoint of a run that only tested one
    checkpoint: str | None = None  # where that was
    classnames: list[str] | None = None
    backbone: str | None = None
    seconds: Seconds | None = None
    counts: Counts | None = None


def differences(ours: CfgNode, theirs: CfgNode) -> list[str]:
    """The keys in which two configs mean different runs, as "KEY: ours, theirs".

    Keys that only one has are ignored, but for those of COMPILE: prompts are not compiled where there are none.
    """

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    a, b = flatten(ours), flatten(theirs)
    ignored = set(NON_IDENTITY_KEYS)
    if a.get("DATASET.NAME") == "ImageFolder":  # which has no name of its own: the folder is the dataset
        ignored.remove("DATASET.ROOT")
    compared = [key for key in (*a, *(b.keys() - a)) if key.startswith(COMPILE + ".") or (key in a and key in b)]
    pairs = {key: (a.get(key), b.get(key)) for key in compared if key not in ignored}
    return [f"{key}: {ours!r}, {theirs!r}" for key, (ours, theirs) in pairs.items() if plain(ours) != plain(theirs)]


def read_config(folder: str) -> CfgNode:
    """The config of the run in `folder`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = os.path.join(folder, CONFIG)
    try:
        config = CfgNode(read_yaml(regular_file(path)))
        read_text(path)  # refuses what reads well and is not what was written
        if not isinstance(config.get("TRAINER"), CfgNode):
            raise ValueError("its TRAINER is no section")
        return config
    except OSError as error:
        raise UserError(f"{folder} holds no run: {path} cannot be read ({error.strerror})") from error
    except YACS_ERRORS as error:
        raise UserError(f"{path} does not hold a config ({' '.join(str(error).split())}); restore it") from error


def write_config(cfg: CfgNode, folder: str) -> None:
    """Write the config of a run that starts or resumes in `folder`, after what killed ones left half-written there is
    removed.

    Raises:
        UserError: the folder holds a run with another config.
    """
    if os.path.exists(os.path.join(folder, CONFIG)):
        refuse_other_config(cfg, folder)
    remove_partial_files(folder)
    with atomic_write(os.path.join(folder, CONFIG)) as file:
        file.write(seal_text(TEXT_HEAD + cfg.dump()))


def refuse_other_config(cfg: CfgNode, folder: str) -> None:
    """Refuse a folder that holds a run with another config.

    Raises:
        UserError: the run in `folder` has another config; names the first difference.
    """
    other = differences(cfg, read_config(folder))
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise UserError(
            f"{folder} holds a run with another config ({other[0]} there{more}); "
            "choose another output folder, or remove that one"
        )


def refuse_training_run(folder: str) -> None:
    """Refuse to test in the folder of a training.

    Raises:
        UserError: a run was trained in `folder`, so that a test there would replace its results.
    """
    if glob.glob(os.path.join(glob.escape(folder), "*", STATE)):
        raise UserError(
            f"{folder} holds a training run, whose results would be lost; choose another --output-dir to test in"
        )


def finished(cfg: CfgNode, folder: str, checkpoint_sha256: str | None = None) -> dict[str, Any] | None:
    """The results of the run in `folder` if it is finished, else None.

    Args:
        checkpoint_sha256: of the checkpoint that the run only tests; results of another, or of a training, are not
            its own. None: the run trains.

    Raises:
        UserError: the folder holds a run with another config, or its results are damaged.
    """
    path = os.path.join(folder, RESULTS)
    if not (os.path.exists(path) and os.path.exists(os.path.join(folder, CONFIG))):
        return None
    refuse_other_config(cfg, folder)
    results = read_results(folder)
    return results if results.get("evaluated") == checkpoint_sha256 else None


def read_results(folder: str) -> dict[str, Any]:
    """`results.json` of the run in `folder`; what of it is in Results has these types.

    Raises:
        OSError: it cannot be opened.
        UserError: it is damaged, or its values are not those of a finished run.
    """
    content, found = read_json(os.path.join(folder, RESULTS), Results)
    return {**content, "accuracy": found.accuracy, "macro_f1": found.macro_f1}


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Keep other processes out of the folder of a run for as long as the context lasts, or this process lives.

    Raises:
        UserError: another process is in it, or it cannot be written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        if os.path.exists(os.path.join(folder, LOCK)):
            regular_file(os.path.join(folder, LOCK))
        file = open(os.path.join(folder, LOCK), "a")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}); choose another --output-dir (OUTPUT of the scripts)"
        ) from error
    with file:
        try:
            if fcntl:  # not `flock`, which forked loader workers would hold a while longer than this process lives
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"another process trains or tests in {folder}; wait until it ends, or choose another output folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def rotate_log(folder: str) -> None:
    """Rename the log of an interrupted run, so that resuming it writes `log.txt`, which result parsers read."""
    log = os.path.join(folder, "log.txt")
    if os.path.exists(log):
        os.replace(log, log + time.strftime("-%Y-%m-%d-%H-%M-%S", time.localtime(os.path.getmtime(log))))


def remove_results(folder: str) -> None:
    """To be called when training begins: a run that is not finished has no results."""
    for name in (RESULTS, PREDICTIONS):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


def write_results(results: dict[str, Any], folder: str) -> None:
    """Write `results.json`; from then on the run counts as finished."""
    with atomic_write(os.path.join(folder, RESULTS)) as file:
        json.dump(seal_json(results), file, indent=2)
        file.write("\n")


def dassl_is_ours() -> bool:
    """Whether the Dassl in use is the one in this project's compat/."""
    import dassl

    return os.path.basename(os.path.dirname(os.path.dirname(dassl.__file__))) == "compat"
