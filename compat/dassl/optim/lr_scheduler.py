"""The learning rate of each epoch."""

import bisect
import math
from collections.abc import Callable
from typing import Any

from dassl.utils import ConfigError
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from yacs.config import CfgNode

__all__ = ["EpochSchedule", "build_lr_scheduler"]

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]

_Base = getattr(torch_schedulers, "LRScheduler", None) or torch_schedulers._LRScheduler  # its name up to torch 1.13


class EpochSchedule(_Base):
    """Sets the learning rate of each parameter group to `rule(base learning rate, epoch)`; `step()` ends an epoch.

    The rule is a closed form of the epoch, so that the state is plain numbers and a resumed run does not drift.

    Args:
        skipped: epochs of the decay that the warm-up has used up, 0 with `OPTIM.WARMUP_RECOUNT`.
    """

    def __init__(self, optimizer: Optimizer, rule: Callable[[float, int], float], skipped: int = 0):
        self.rule, self.skipped = rule, skipped
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [self.rule(base, self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key not in ("rule", "skipped")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load our own state or that of upstream Dassl's scheduler.

        Upstream's warm-up scheduler counts only its own epochs; those after it are counted by the object `successor`,
        which `load_checkpoint` has replaced by a stub with the same attributes.
        """
        state = dict(state_dict)
        successor = state.pop("successor", None)
        if successor is not None:
            state["last_epoch"] += successor.last_epoch - self.skipped
        super().load_state_dict({key: value for key, value in state.items() if key in self.state_dict()})


def _decay(optim_cfg: CfgNode) -> Callable[[int], float]:
    """The decay factor as a function of the number of epochs, warm-up not counted; 1 at epoch 0."""
    name, steps, gamma, max_epoch = (
        optim_cfg.LR_SCHEDULER,
        optim_cfg.STEPSIZE,
        optim_cfg.GAMMA,
        optim_cfg.MAX_EPOCH,
    )
    if name == "cosine":
        return lambda epoch: (1 + math.cos(math.pi * epoch / max_epoch)) / 2

    if name == "single_step":
        step = steps[-1] if isinstance(steps, (list, tuple)) else steps
        if not isinstance(step, int):
            raise ConfigError(f"OPTIM.STEPSIZE of single_step must be an integer number of epochs, not {step!r}")
        step = step if step > 0 else max_epoch
        return lambda epoch: gamma ** (epoch // step)

    if name == "multi_step":
        if not isinstance(steps, (list, tuple)):
            raise ConfigError(f"OPTIM.STEPSIZE of multi_step must be a list of epochs, not {steps!r}")
        milestones = sorted(steps)
        return lambda epoch: gamma ** bisect.bisect_right(milestones, epoch)

    raise ConfigError(f'OPTIM.LR_SCHEDULER must be one of {", ".join(AVAI_SCHEDS)}, not "{name}"')


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> EpochSchedule:
    """The schedule `OPTIM.LR_SCHEDULER` after `OPTIM.WARMUP_EPOCH` epochs of warm-up.

    Warm-up is "constant" (`WARMUP_CONS_LR`) or "linear" (`WARMUP_MIN_LR` in the first epoch, then linearly up to the
    base learning rate). The decay then starts from the base learning rate, at its epoch 0 or, without
    `WARMUP_RECOUNT`, at the epoch that training has reached.

    Raises:
        ConfigError: an unknown schedule or warm-up, or a STEPSIZE of the wrong type.
    """
    decay = _decay(optim_cfg)
    warmup = max(0, optim_cfg.WARMUP_EPOCH)
    kind, constant, lowest = optim_cfg.WARMUP_TYPE, optim_cfg.WARMUP_CONS_LR, optim_cfg.WARMUP_MIN_LR
    if warmup and kind not in ("constant", "linear"):
        raise ConfigError(f'OPTIM.WARMUP_TYPE must be constant or linear, not "{kind}"')
    skipped = 0 if optim_cfg.WARMUP_RECOUNT else warmup

    def learning_rate(base: float, epoch: int) -> float:
        if epoch >= warmup:
            return base * decay(epoch - warmup + skipped) / (decay(skipped) or 1)
        if kind == "constant":
            return constant
        return base * epoch / warmup if epoch else lowest

    return EpochSchedule(optimizer, learning_rate, skipped)
