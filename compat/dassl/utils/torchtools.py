"""Checkpoints and parameter counts."""

import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from typing import Any
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from .plain import is_program, read_plain
from .tools import mkdir_if_missing

__all__ = [
    "CheckpointError",
    "save_checkpoint",
    "load_checkpoint",
    "resume_from_checkpoint",
    "count_num_param",
    "load_pretrained_weights",
]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used."""


@contextmanager
def _beside(path: str) -> Iterator[str]:
    """A name to write to that becomes `path` only when the block ends well, so that no file is ever half-written."""
    beside = tempfile.mkdtemp(dir=os.path.dirname(path), prefix=".writing-")
    try:
        name = os.path.join(beside, os.path.basename(path))
        yield name
        os.replace(name, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _without_module(state_dict: dict[str, Any]) -> dict[str, Any]:
    """`nn.DataParallel` puts "module." before every name."""
    return {name.removeprefix("module."): v for name, v in state_dict.items()}


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write `state` to `save_dir`/`model_name` and its name to `save_dir`/checkpoint.

    Args:
        state: plain data and tensors, with "state_dict" and "epoch" (finished epochs) among the keys.
        is_best: also keep it as model-best.pth.tar.
        remove_module_from_keys: save as if the model were not wrapped in `nn.DataParallel`.
        model_name: file name; default model.pth.tar-<epoch>.
    """
    mkdir_if_missing(save_dir)
    if remove_module_from_keys:
        state = {**state, "state_dict": _without_module(state["state_dict"])}
    model_name = model_name or f"model.pth.tar-{state['epoch']}"
    fpath = os.path.join(save_dir, model_name)
    with _beside(fpath) as beside:
        torch.save(state, beside)
    print(f"Checkpoint saved to {fpath}")

    with _beside(os.path.join(save_dir, "checkpoint")) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(model_name + "\n")

    if is_best:
        best_fpath = os.path.join(save_dir, "model-best.pth.tar")
        with _beside(best_fpath) as beside:
            shutil.copyfile(fpath, beside)
        print(f'Best checkpoint saved to "{best_fpath}"')


def load_checkpoint(fpath: str) -> Any:
    """What `torch.save` wrote, tensors on the CPU. Executes nothing that the file names.

    Dassl's own checkpoints hold a live scheduler object, which `weights_only` refuses: in such files everything that
    is neither a tensor nor a plain container arrives as a `Stub`.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: damaged, or nothing that `torch.save` writes.
    """
    if fpath is None:
        raise ValueError("no path of a checkpoint was given")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f'there is no checkpoint at "{fpath}"; train first or give another path')
    try:
        if is_program(fpath):
            raise CheckpointError(f'"{fpath}" is a TorchScript program, not a checkpoint; give another file')
        try:
            return torch.load(fpath, map_location="cpu", weights_only=True)
        except Exception:  # objects or damage: the second reading tells which
            return read_plain(fpath)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f'the checkpoint "{fpath}" is damaged or was not written by torch.save; delete it and train again, '
            "or give another one"
        ) from error


def resume_from_checkpoint(fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Load the checkpoint that `fdir`/checkpoint names into the model, and into optimizer and scheduler if given.

    Returns:
        The number of finished epochs, which is the index of the next one.
    """
    with open(os.path.join(fdir, "checkpoint"), encoding="utf-8") as file:
        fpath = os.path.join(fdir, file.readline().strip())
    print(f'Loading checkpoint from "{fpath}"')
    checkpoint = load_checkpoint(fpath)
    for key in ("state_dict", "epoch"):
        if key not in checkpoint:
            raise CheckpointError(f'the checkpoint "{fpath}" has no "{key}": it was not written by save_checkpoint')
    model.load_state_dict(checkpoint["state_dict"])
    print("Loaded model weights")
    for name, part in {"optimizer": optimizer, "scheduler": scheduler}.items():
        if part is not None and checkpoint.get(name) is not None:
            part.load_state_dict(checkpoint[name])
            print(f"Loaded {name}")
    print(f"Previous epoch: {checkpoint['epoch']}")
    return checkpoint["epoch"]


def count_num_param(model: nn.Module | None = None, params: Iterable | None = None) -> int:
    """How many numbers a model has, or an iterable of parameters (or of dictionaries with one under "params")."""
    if model is None and params is None:
        raise ValueError("count_num_param needs a model or params")
    params = params if model is None else model.parameters()
    return sum((p["params"] if isinstance(p, dict) else p).numel() for p in params)


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Load those weights of a checkpoint, or of a bare state dictionary, whose name and shape the model has."""
    checkpoint = load_checkpoint(weight_path)
    weights = _without_module(checkpoint.get("state_dict", checkpoint))
    own = model.state_dict()
    matched = {name: w for name, w in weights.items() if name in own and own[name].shape == w.shape}
    discarded = [name for name in weights if name not in matched]
    model.load_state_dict({**own, **matched})
    if not matched:
        warnings.warn(f"nothing in {weight_path} fits the model; compare the names of the parameters")
        return
    print(f"Successfully loaded pretrained weights from {weight_path}")
    if discarded:
        print(f"Layers discarded due to unmatched keys or size: {discarded}")
