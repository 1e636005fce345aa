"""Models and trainers from the folder of a finished run."""

import contextlib
import io
import os
from typing import Any

from dassl.config import get_cfg_default
from dassl.data.transforms import build_transform
from dassl.engine import TrainerX
from yacs.config import CfgNode

from promptbias.model.loading import load_clip
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError
from promptbias.utils.files import checksum

from . import checkpoints, run_folder
from .config import explain
from .discovery import register_all
from .registry import registered_as, tuning_trainers
from .trainer import TuningTrainer


def load_config(folder: str) -> tuple[Any, type[TuningTrainer]]:
    """The config of the finished run in `folder`, and its trainer's class.

    Raises:
        UserError: there is no finished run, it is damaged, or not one of this project's trainers.
    """
    register_all()
    written = run_folder.read_config(folder)
    if not os.path.exists(os.path.join(folder, run_folder.RESULTS)):
        raise UserError(
            f"the run in {folder} is not finished ({run_folder.RESULTS} is missing); "
            "the command that started it resumes it"
        )
    run_folder.read_results(folder)  # refuses what does not count as finished
    name = registered_as(written.get("TRAINER", {}).get("NAME", ""))
    if name not in tuning_trainers():
        raise UserError(
            f'{folder} is a run of "{name}", which cannot be loaded; {", ".join(sorted(tuning_trainers()))} can'
        )
    trainer = tuning_trainers()[name]
    cfg = get_cfg_default()
    drop_foreign_keys(written, cfg, trainer.custom_clip.config.node)
    try:
        cfg.merge_from_other_cfg(written)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{folder}/{run_folder.CONFIG} is not of this version of promptbias ({explain(cfg, error)}); "
            "load it with the version that wrote it"
        ) from error
    # A run has computed with a weights file as with one of OpenAI's, also before the file had to say that it is one.
    if os.path.isfile(cfg.MODEL.BACKBONE.NAME):
        cfg.MODEL.BACKBONE.NAME = f"openai:{cfg.MODEL.BACKBONE.NAME}"
    cfg.TRAINER.NAME, cfg.MODEL.INIT_WEIGHTS, cfg.VERBOSE = name, "", False
    return cfg, trainer


def drop_foreign_keys(written: CfgNode, known: CfgNode, own: str) -> None:
    """Remove from a run's config what a checkout's `extend_cfg` added for other code.

    That is the nodes of all trainers but TRAINER.<own>, and keys of other nodes that are not in `known`.
    """
    for key in list(written):
        if key == "TRAINER":
            written[key] = CfgNode({name: value for name, value in written[key].items() if name in ("NAME", own)})
        elif key not in known:
            del written[key]
        elif isinstance(written[key], CfgNode) and isinstance(known[key], CfgNode):
            drop_foreign_keys(written[key], known[key], own)


def checkpoint_of(folder: str, trainer: type[TuningTrainer]) -> str:
    """What the finished run in `folder` has trained, or, where it only tested, what it has tested; "": zero-shot CLIP.

    Raises:
        UserError: there is no checkpoint, or what was tested has changed or moved.
    """
    results = run_folder.read_results(folder)
    sha256, path = results.get("evaluated"), results.get("checkpoint")
    if not sha256:
        return trainer.checkpoint_in(folder)
    if not path:
        raise UserError(f"{folder} holds a test by an earlier version, which does not say of what; name the tested run")
    if not os.path.exists(path):
        raise UserError(f"{folder} holds a test of {path}, which does not exist; put it back, or test again")
    if checksum(path) != sha256:
        raise UserError(f"{folder} holds a test of {path}, which has changed since; test again")
    return path


def load_checkpoint(model: TunedCLIP, path: str, cfg: Any, trainer: type[TuningTrainer]) -> None:
    """Put the checkpoint at `path` into the model of a run with this config.

    Raises:
        UserError: it is damaged, or belongs to another model.
    """
    checkpoints.load_into(model, checkpoints.read_checkpoint(path), path, cfg, trainer.__name__)


def load_trainer(folder: str, root: str = "") -> TrainerX:
    """The trainer of the finished run in `folder` with its data; its model in float32, as trained, without gradients.

    Args:
        root: folder of the datasets, where it is not the one in the run's config.

    Raises:
        UserError: as `load_config`; or its dataset or checkpoint is not there.
    """
    cfg, trainer_class = load_config(folder)
    cfg.TRAINER[trainer_class.custom_clip.config.node].PREC = "fp32"
    if root:
        cfg.DATASET.ROOT = root
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            trainer = trainer_class(cfg)
        except UserError as error:
            raise UserError(f"{folder}/{run_folder.CONFIG}: {error}") from error
        path = checkpoint_of(folder, trainer_class)
        if path:
            load_checkpoint(trainer.model, path, cfg, trainer_class)
    trainer.model.eval().requires_grad_(False)
    return trainer


def load_model(folder: str, precision: str = "fp32", device: str = "cpu") -> TunedCLIP:
    """The tuned model of the finished run in `folder`, in eval mode, without gradients. Needs no data.

    Args:
        precision: fp32, fp16, bf16, amp or auto.
        device: "cpu" or "cuda".

    Raises:
        UserError: as `load_config`; or its checkpoint is not there, or, for a run of version 0.1, its dataset.
    """
    cfg, trainer_class = load_config(folder)
    path = checkpoint_of(folder, trainer_class)
    classnames = run_folder.read_results(folder).get("classnames")
    if classnames is None:  # a run of an earlier version, whose class names only the dataset knows
        classnames = load_trainer(folder).dm.dataset.classnames
    cfg.TRAINER[trainer_class.custom_clip.config.node].PREC = precision
    cfg.USE_CUDA = device.startswith("cuda")
    model = trainer_class.custom_clip(cfg, classnames, load_clip(cfg.MODEL.BACKBONE.NAME)).to(device)
    if path:
        load_checkpoint(model, path, cfg, trainer_class)
    with contextlib.redirect_stdout(io.StringIO()):
        model.preprocess = build_transform(cfg, is_train=False)
    return model.eval().requires_grad_(False)
