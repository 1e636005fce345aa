"""The optimizer that a configuration selects."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from dassl.utils import ConfigError
from torch import nn
from yacs.config import CfgNode

__all__ = ["RAdam", "build_optimizer"]


class RAdam(torch.optim.RAdam):
    """Rectified Adam (arXiv 1908.03265) with its authors' decoupled weight decay: weights shrink by lr * decay."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
            group["weight_decay"] = 0  # otherwise torch adds it to the gradient
        loss = super().step(closure)
        for group, decay in zip(self.param_groups, decays):
            group["weight_decay"] = decay
        return loss


def _staged(model: nn.Module, optim_cfg: CfgNode) -> list:
    """Two parameter groups: NEW_LAYERS at the full learning rate, all other modules at BASE_LR_MULT times it."""
    if not isinstance(model, nn.Module):
        raise TypeError("OPTIM.STAGED_LR needs a module, not a list of parameters")
    model = model.module if isinstance(model, nn.DataParallel) else model
    names = optim_cfg.NEW_LAYERS
    names = [names] if isinstance(names, str) else names
    base, new = [], []
    for name, module in model.named_children():
        (new if name in names else base).extend(module.parameters())
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]


def build_optimizer(
    model: nn.Module | Iterable,
    optim_cfg: CfgNode,
    param_groups: Iterable | None = None,
) -> torch.optim.Optimizer:
    """The optimizer `OPTIM.NAME` with the settings of `optim_cfg`.

    Args:
        model: a module, or parameters, or parameter groups.
        param_groups: replaces `model` if given.

    Raises:
        ConfigError: unknown name.
    """
    adam = {"betas": (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2)}
    sgd = {"dampening": optim_cfg.SGD_DAMPNING, "nesterov": optim_cfg.SGD_NESTEROV}
    known = {
        "adam": (torch.optim.Adam, adam),
        "amsgrad": (torch.optim.Adam, {**adam, "amsgrad": True}),
        "adamw": (torch.optim.AdamW, adam),
        "radam": (RAdam, adam),
        "sgd": (torch.optim.SGD, {"momentum": optim_cfg.MOMENTUM, **sgd}),
        "rmsprop": (torch.optim.RMSprop, {"momentum": optim_cfg.MOMENTUM, "alpha": optim_cfg.RMSPROP_ALPHA}),
    }
    if optim_cfg.NAME not in known:
        raise ConfigError(f'OPTIM.NAME must be one of {", ".join(known)}, not "{optim_cfg.NAME}"')

    if param_groups is not None:
        if optim_cfg.STAGED_LR:
            warnings.warn("OPTIM.STAGED_LR is ignored because parameter groups are given")
    elif optim_cfg.STAGED_LR:
        param_groups = _staged(model, optim_cfg)
    else:
        param_groups = model.parameters() if isinstance(model, nn.Module) else model

    optimizer, options = known[optim_cfg.NAME]
    return optimizer(param_groups, lr=optim_cfg.LR, weight_decay=optim_cfg.WEIGHT_DECAY, **options)
