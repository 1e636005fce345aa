"""What an interrupted training needs to resume bit-exactly: written after each epoch, read before the first."""

import hashlib
import json
import os
from typing import Any

from promptbias.utils.errors import UserError

from . import checkpoints, run_folder
from .rng import random_states, scheduler_state, set_random_states, set_scheduler_state


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
    run_folder.save(state, os.path.join(trainer.output_dir, trainer.model_name, run_folder.STATE))


def resume(trainer: Any, directory: str) -> int:
    """Put a TuningTrainer into the state in which the run in `directory` ended its last epoch.

    Returns:
        The epoch to start with (from 0); 0 where there is nothing to resume.

    Raises:
        UserError: another directory has nothing to resume, the file is damaged or of another model, or the data differ.
    """
    path = os.path.join(directory, trainer.model_name, run_folder.STATE)
    elsewhere = os.path.realpath(directory) != os.path.realpath(trainer.output_dir)
    if trainer.optim is None or not os.path.exists(path):
        if trainer.optim is not None and elsewhere:
            raise UserError(f"there is nothing to resume in {directory} ({path} is missing); check --resume")
        return 0
    state = run_folder.load(path)
    if "random" not in state:
        raise UserError(f"{path} is not a training state; remove it to train from the start")
    checkpoints.load_into(trainer.model, state, path, trainer.cfg, type(trainer).__name__)
    if state.get("data") not in (None, data_checksum(trainer)):
        raise UserError(
            f"{directory} holds a run that began with other classes or training images; "
            "choose another output folder, or remove that one"
        )
    trainer.optim.load_state_dict(state["optimizer"])
    set_scheduler_state(trainer.sched, state["scheduler"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.best_result, trainer.seconds_before = state["best_result"], state["seconds"]
    set_random_states(state["random"])
    best = os.path.join(trainer.model_name, checkpoints.BEST)
    if elsewhere and os.path.exists(os.path.join(directory, best)):
        run_folder.save(run_folder.load(os.path.join(directory, best)), os.path.join(trainer.output_dir, best))
    print(f"Resuming from {path} after epoch {state['epoch']}")
    return state["epoch"]
