"""Checkpoints and parameter counts."""

import os
import shutil
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write, is_torchscript

from .plain import read_plain
from .tools import mkdir_if_missing

__all__ = [
    "CheckpointError",
    "save_checkpoint",
    "load_checkpoint",
    "resume_from_checkpoint",
    "count_num_param",
    "load_pretrained_weights",
]


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be used."""


def _without_module(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Drop the "module." that `nn.DataParallel` puts before every name."""
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
        is_best: also save it as model-best.pth.tar.
        remove_module_from_keys: save as if the model were not wrapped in `nn.DataParallel`.
        model_name: file name; default model.pth.tar-<epoch>.
    """
    mkdir_if_missing(save_dir)
    if remove_module_from_keys:
        state = {**state, "state_dict": _without_module(state["state_dict"])}
    model_name = model_name or f"model.pth.tar-{state['epoch']}"
    fpath = os.path.join(save_dir, model_name)
    with atomic_write(fpath, "wb") as file:
        torch.save(state, file)
    print(f"Checkpoint saved to {fpath}")

    with atomic_write(os.path.join(save_dir, "checkpoint")) as file:
        file.write(model_name + "\n")

    if is_best:
        best_fpath = os.path.join(save_dir, "model-best.pth.tar")
        with open(fpath, "rb") as source, atomic_write(best_fpath, "wb") as file:
            shutil.copyfileobj(source, file)
        print(f'Best checkpoint saved to "{best_fpath}"')


def load_checkpoint(fpath: str) -> Any:
    """Load what `torch.save` wrote, tensors on the CPU, without executing code from the file.

    Upstream Dassl's checkpoints contain a live scheduler object, which `weights_only` rejects. In such files everything
    that is neither a tensor nor a plain container is replaced by a `Stub`.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file is damaged or was not written by `torch.save`.
    """
    if fpath is None:
        raise ValueError("load_checkpoint needs a path, not None")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f'there is no checkpoint at "{fpath}"; train first, or give another path')
    try:
        if is_torchscript(fpath):
            raise CheckpointError(f'"{fpath}" is a TorchScript archive, not a checkpoint; give another file')
        try:
            return torch.load(fpath, map_location="cpu", weights_only=True)
        except Exception:  # it contains objects or is damaged: read_plain tells which
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
            raise CheckpointError(f'the checkpoint "{fpath}" has no "{key}"; give one that save_checkpoint has written')
    model.load_state_dict(checkpoint["state_dict"])
    print("Loaded model weights")
    for name, part in {"optimizer": optimizer, "scheduler": scheduler}.items():
        if part is not None and checkpoint.get(name) is not None:
            part.load_state_dict(checkpoint[name])
            print(f"Loaded {name}")
    print(f"Previous epoch: {checkpoint['epoch']}")
    return checkpoint["epoch"]


def count_num_param(model: nn.Module | None = None, params: Iterable | None = None) -> int:
    """Number of parameters of a model, or of an iterable of parameters or of dictionaries with one under "params"."""
    if model is None and params is None:
        raise ValueError("count_num_param needs a model or params")
    params = params if model is None else model.parameters()
    return sum((p["params"] if isinstance(p, dict) else p).numel() for p in params)


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Load the weights of a checkpoint or bare state dict whose names and shapes match those of the model."""
    checkpoint = load_checkpoint(weight_path)
    weights = _without_module(checkpoint.get("state_dict", checkpoint))
    own = model.state_dict()
    matched = {name: w for name, w in weights.items() if name in own and own[name].shape == w.shape}
    discarded = [name for name in weights if name not in matched]
    model.load_state_dict({**own, **matched})
    if not matched:
        warnings.warn(f"no weight in {weight_path} matches the model; compare the parameter names")
        return
    print(f"Successfully loaded pretrained weights from {weight_path}")
    if discarded:
        print(f"Layers discarded due to unmatched keys or size: {discarded}")
