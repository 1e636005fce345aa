"""What an interrupted training needs to resume bit-exactly: written after each epoch, read before the first."""

import hashlib
import json
import os
from typing import Annotated, Any

import msgspec

from promptbias.utils.contents import Finite, Optimizer, same_form, set_optimizer_state
from promptbias.utils.errors import UserError
from promptbias.utils.tensor_files import save_tensors

from . import checkpoints, distributed, run_folder
from .rng import RandomStates, random_states, scheduler_state, set_random_states, set_scheduler_state


class TrainingState(checkpoints.Checkpoint, kw_only=True):
    """What must be in a training state besides what is in a checkpoint."""

    epoch: Annotated[int, msgspec.Meta(ge=1, le=10**6)]
    optimizer: Optimizer
    scheduler: dict[str, Any]
    scaler: dict[str, Finite]
    random: RandomStates
    best_result: Annotated[float, msgspec.Meta(le=100)]  # -inf where nothing was validated
    seconds: Finite
    data: str | None = None


def data_checksum(trainer: Any) -> str:
    """Checksum of a trainer's classes and training images, which must be the same when a run resumes."""
    dataset, root = trainer.dm.dataset, os.path.expanduser(trainer.cfg.DATASET.ROOT) or "."
    rows = sorted([os.path.relpath(item.impath, root), item.label, item.classname] for item in dataset.train_x)
    return hashlib.sha256(json.dumps([dataset.classnames, rows]).encode()).hexdigest()


def save_training_state(trainer: Any) -> None:
    """Write optimizer, scheduler, scaler and random states of a TuningTrainer beside its checkpoints."""
    state = checkpoints.checkpoint(trainer.model, trainer.cfg, trainer.epoch)
    state.update(
        data=data_checksum(trainer),
        optimizer=trainer.optim.state_dict(),
        scheduler=scheduler_state(trainer.sched),
        scaler=trainer.scaler.state_dict(),
        random=random_states(),
        best_result=float(trainer.best_result),
        seconds=trainer.seconds_trained(),
    )
    save_tensors(state, os.path.join(trainer.output_dir, trainer.model_name, run_folder.STATE))


def resume(trainer: Any, directory: str) -> int:
    """Put a TuningTrainer into the state in which the run in `directory` ended its last epoch.

    Returns:
        The epoch to start with (from 0); 0 where there is nothing to resume.

    Raises:
        UserError: another directory has nothing to resume, the file is damaged or of another model or optimizer, or the
            data differ.
    """
    path = os.path.join(directory, trainer.model_name, run_folder.STATE)
    elsewhere = os.path.realpath(directory) != os.path.realpath(trainer.output_dir)
    if trainer.optim is None or not os.path.exists(path):
        if trainer.optim is not None and elsewhere:
            raise UserError(f"there is nothing to resume in {directory} ({path} is missing); check --resume")
        return 0
    state = checkpoints.read_checkpoint(path, TrainingState)
    checkpoints.load_into(trainer.model, state, path, trainer.cfg, type(trainer).__name__)
    if state.get("data") not in (None, data_checksum(trainer)):
        raise UserError(
            f"{directory} holds a run that began with other classes or training images; "
            "choose another output folder, or remove that one"
        )
    try:
        set_optimizer_state(trainer.optim, state["optimizer"])
        set_scheduler_state(trainer.sched, state["scheduler"])
        if state["scaler"] and not same_form(state["scaler"], trainer.scaler.state_dict()):
            raise ValueError("the state of the gradient scaler is not one of this scaler")
        set_random_states(state["random"])
    except ValueError as error:
        raise UserError(f"{path} cannot be resumed ({error}); remove it to train from the start") from error
    if state["scaler"]:  # none where it was trained without one, such as on the CPU
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.best_result, trainer.seconds_before = state["best_result"], state["seconds"]
    best = os.path.join(trainer.model_name, checkpoints.BEST)
    if elsewhere and distributed.is_writer() and os.path.exists(os.path.join(directory, best)):
        contents = checkpoints.read_checkpoint(os.path.join(directory, best))
        save_tensors(contents, os.path.join(trainer.output_dir, best))
    print(f"Resuming from {path} after epoch {state['epoch']}")
    return state["epoch"]
