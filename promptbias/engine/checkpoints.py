"""Checkpoints that hold only what was trained, in Dassl's places, and what makes them fit a model."""

import os
from typing import Any

import msgspec
from torch import Tensor

from promptbias.model.backbones import path_of
from promptbias.model.backbones.backbone import VisionSize
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.contents import check_form, unusable
from promptbias.utils.errors import UserError
from promptbias.utils.seals import POINTER, read_pointer, write_pointer
from promptbias.utils.tensor_files import load_tensors, save_tensors

BEST = "model-best.pth.tar"
# Options that change how a method is trained, and not what a checkpoint means.
FREE_OPTIONS = ("PREC", "INIT_STD", "DROPOUT", "CONSISTENCY", "CONSISTENCY_OF")


class Checkpoint(msgspec.Struct):
    """What is read of a checkpoint. Those of the family's public code hold more, and nothing `about` it."""

    state_dict: dict[str, Tensor]
    about: dict[str, str | int | float | bool | list[str | int | float | bool] | None] = {}


def metadata(cfg: Any, node: str) -> dict[str, Any]:
    """What a checkpoint must agree with to be loaded. A weights file may lie somewhere else by then."""
    backbone, options = cfg.MODEL.BACKBONE.NAME, cfg.TRAINER[node]
    named = {} if path_of(backbone) else {"MODEL.BACKBONE.NAME": backbone}
    # -1 means as many as there are blocks, and agrees with any number.
    meant = [key for key in options if key not in FREE_OPTIONS and options[key] != -1]
    return {**named, **{f"TRAINER.{node}.{key}": options[key] for key in meant}}


def checkpoint(model: TunedCLIP, cfg: Any, epoch: int, val_result: float | None = None) -> dict[str, Any]:
    """What is trained after epoch `epoch` (from 0), in Dassl's form."""
    return {
        "state_dict": model.adapters.state_dict(),
        "epoch": epoch + 1,
        "optimizer": None,
        "scheduler": None,
        "val_result": val_result,
        "about": metadata(cfg, model.method.node),
    }


def save_checkpoint(contents: dict[str, Any], folder: str, name: str, is_best: bool) -> str:
    """Write `folder`/`name`, if it is the best also BEST, and its name into the file `checkpoint`; returns its path."""
    path = os.path.join(folder, name)
    save_tensors(contents, path)
    if is_best:
        save_tensors(contents, os.path.join(folder, BEST))
    write_pointer(folder, name)
    return path


def find_checkpoint(directory: str, model_name: str, trainer: str, epoch: int | None = None) -> str:
    """The file with what was trained in the run in `directory`: after epoch `epoch`, or the best, or the last.

    Raises:
        UserError: no directory is named, it holds no such checkpoint, or its file `checkpoint` is damaged.
    """
    if not directory:
        raise UserError("--eval-only needs --model-dir, the output folder of a training run")
    folder = os.path.join(directory, model_name)
    name = f"model.pth.tar-{epoch}" if epoch is not None else BEST
    if epoch is None and not os.path.exists(os.path.join(folder, name)):
        pointer = os.path.join(folder, POINTER)
        if not os.path.exists(pointer):
            raise UserError(f"{directory} holds no trained {trainer} ({pointer} is missing); train first")
        name = read_pointer(folder)
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        raise UserError(f"there is no checkpoint {path}; train first, or check --model-dir and --load-epoch")
    return path


def read_checkpoint(path: str, schema: type[msgspec.Struct] = Checkpoint) -> dict[str, Any]:
    """What is in a checkpoint, of which nothing is executed.

    Args:
        schema: what must be in it.

    Raises:
        UserError: it is missing, damaged, or not as the schema says.
    """
    if not os.path.exists(path):
        raise UserError(f"there is no checkpoint {path}; train first, or check --model-dir and --load-epoch")
    contents = load_tensors(path)
    if not (isinstance(contents, dict) and "state_dict" in contents):
        raise UserError(f'{path} is not a checkpoint of a trainer: it has no "state_dict"')
    check_form(contents, schema, path)
    return contents


def load_into(model: TunedCLIP, contents: dict[str, Any], path: str, cfg: Any, trainer: str) -> None:
    """Put a checkpoint's parameters into the adapters of `model`.

    Raises:
        UserError: it belongs to another trainer, backbone or configuration (says in what they differ), or holds values
            that are not finite or absurdly large.
    """
    node = model.method.node
    wanted = metadata(cfg, node)
    for key, value in contents.get("about", {}).items():
        if wanted.get(key, value) != value:
            raise UserError(
                f"{path} was made with {key} {value!r}, but this run has {wanted[key]!r}; set it to {value!r}"
            )
    needed = model.adapters.state_dict()
    try:
        state = model.method.convert_state(contents["state_dict"])
    except RuntimeError as error:  # blocks of different shapes
        raise UserError(f"{path} does not fit together ({' '.join(str(error).split())}); give another") from error
    if needed and not set(state) & set(needed):
        raise UserError(f"{path} was not made by {trainer}: it has no {next(iter(needed))}")
    for key in {**state, **needed}:
        found, expected = (tuple(s[key].shape) if key in s else None for s in (state, needed))
        if found != expected:
            raise UserError(
                f"{path} has {key} of shape {found}, but this model needs {expected}; "
                f"compare depth and context length in TRAINER.{node}, and the CLIP, "
                f"here a ViT of {VisionSize.of(model.clip.state_dict())}"
            )
    problem = unusable((key, value.to(needed[key].dtype)) for key, value in state.items())
    if problem:
        raise UserError(f"{path} cannot be used, {problem}; load another epoch, or train again with a lower OPTIM.LR")
    model.adapters.load_state_dict(state)
