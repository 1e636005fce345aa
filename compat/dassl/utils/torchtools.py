"""Checkpoints and parameter counts."""

import os
import warnings
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor, nn

from promptbias.utils.contents import Optimizer, check_form, set_optimizer_state, unusable
from promptbias.utils.errors import UserError
from promptbias.utils.seals import read_pointer, write_pointer
from promptbias.utils.tensor_files import load_tensors, save_tensors

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


class Trained(msgspec.Struct):
    """What a checkpoint must hold to be tested; CoOp's own loaders read `epoch` too."""

    state_dict: dict[str, Tensor]
    epoch: Annotated[int, msgspec.Meta(ge=0, le=10**6)] | None = None


class Resumable(Trained, kw_only=True):
    """What a checkpoint must hold to be resumed."""

    epoch: Annotated[int, msgspec.Meta(ge=0, le=10**6)]
    optimizer: Optimizer | None = None
    scheduler: dict[str, Any] | None = None


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
    """Write `state`, with a checksum, to `save_dir`/`model_name` and its name to `save_dir`/checkpoint.

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
    save_tensors(state, fpath)
    print(f"Checkpoint saved to {fpath}")

    write_pointer(save_dir, model_name)

    if is_best:
        best_fpath = os.path.join(save_dir, "model-best.pth.tar")
        save_tensors(state, best_fpath)
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
    if not os.path.exists(fpath):
        raise FileNotFoundError(f'there is no checkpoint at "{fpath}"; train first, or give another path')
    try:
        return load_tensors(fpath)
    except UserError as error:
        raise CheckpointError(str(error)) from error


def load_weights(model: nn.Module, fpath: str, schema: type[msgspec.Struct] = Trained) -> dict[str, Any]:
    """Load a checkpoint's parameters into `model`; returns all that is in it.

    Args:
        schema: what must be in it.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: it is damaged, does not fit, or holds values that are not finite.
    """
    checkpoint = load_checkpoint(fpath)
    try:
        check_form(checkpoint, schema, fpath)
        model.load_state_dict(checkpoint["state_dict"])
    except UserError as error:
        raise CheckpointError(str(error)) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f'the checkpoint "{fpath}" does not fit ({reason}); give one of this trainer') from error
    problem = unusable(model.named_parameters())
    if problem:
        raise CheckpointError(f'the checkpoint "{fpath}" cannot be used, {problem}; give another')
    return checkpoint


def resume_from_checkpoint(fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Load the checkpoint that `fdir`/checkpoint names into the model, and into optimizer and scheduler if given.

    Returns:
        The number of finished epochs, which is the index of the next one.

    Raises:
        CheckpointError: it is damaged or does not fit.
    """
    try:
        fpath = os.path.join(fdir, read_pointer(fdir))
    except UserError as error:
        raise CheckpointError(str(error)) from error
    print(f'Loading checkpoint from "{fpath}"')
    checkpoint = load_weights(model, fpath, Resumable)
    print("Loaded model weights")
    for name, part in {"optimizer": optimizer, "scheduler": scheduler}.items():
        if part is not None and checkpoint.get(name) is not None:
            try:
                if isinstance(part, torch.optim.Optimizer):
                    set_optimizer_state(part, checkpoint[name])
                else:
                    part.load_state_dict(checkpoint[name])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f'the {name} in the checkpoint "{fpath}" does not fit ({error}); give one of this trainer'
                ) from error
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
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    try:
        check_form(state, dict[str, Tensor], weight_path)
    except UserError as error:
        raise CheckpointError(str(error)) from error
    weights = _without_module(state)
    own = model.state_dict()
    matched = {name: w for name, w in weights.items() if name in own and own[name].shape == w.shape}
    discarded = [name for name in weights if name not in matched]
    problem = unusable(matched.items())
    if problem:
        raise CheckpointError(f'"{weight_path}" cannot be used, {problem}; give another file')
    model.load_state_dict({**own, **matched})
    if not matched:
        warnings.warn(f"no weight in {weight_path} matches the model; compare the parameter names")
        return
    print(f"Successfully loaded pretrained weights from {weight_path}")
    if discarded:
        print(f"Layers discarded due to unmatched keys or size: {discarded}")
