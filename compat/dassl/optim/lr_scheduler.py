"""The learning rate of each epoch."""

import bisect
import math
from typing import Any
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from yacs.config import CfgNode

from dassl.utils import ConfigError

__all__ = ["EpochSchedule", "build_lr_scheduler"]

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]

_Base = getattr(torch_schedulers, "LRScheduler", None) or torch_schedulers._LRScheduler  # named so up to torch 1.13


class EpochSchedule(_Base):
    """Sets each parameter group's rate to `rate(base rate, epoch)`; `step()` ends an epoch.

    A closed form of the epoch: the state is plain numbers, and nothing drifts when a run is resumed.

    Args:
        skipped: the epoch of its own at which the schedule starts after the warm-up.
    """

    def __init__(self, optimizer: Optimizer, rate: Callable[[float, int], float], skipped: int = 0):
        self.rate, self.skipped = rate, skipped
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [self.rate(base, self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key not in ("rate", "skipped")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over our own state or that of Dassl's scheduler.

        Dassl's warm-up counts only its own epochs; those after it stand in the object `successor`, which
        `load_checkpoint` leaves as a stub with its attributes.
        """
        state = dict(state_dict)
        successor = state.pop("successor", None)
        if successor is not None:
            state["last_epoch"] += successor.last_epoch - self.skipped
        super().load_state_dict({key: value for key, value in state.items() if key in self.state_dict()})


def _decay(optim_cfg: CfgNode) -> Callable[[int], float]:
    """The factor on the base rate after so many epochs without warm-up; 1 at epoch 0."""
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
            raise ConfigError(f"OPTIM.STEPSIZE of single_step is a whole number of epochs, not {step!r}")
        step = step if step > 0 else max_epoch
        return lambda epoch: gamma ** (epoch // step)

    if name == "multi_step":
        if not isinstance(steps, (list, tuple)):
            raise ConfigError(f"OPTIM.STEPSIZE of multi_step is a list of epochs, not {steps!r}")
        milestones = sorted(steps)
        return lambda epoch: gamma ** bisect.bisect_right(milestones, epoch)

    raise ConfigError(f'OPTIM.LR_SCHEDULER is one of {", ".join(AVAI_SCHEDS)}, not "{name}"')


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> EpochSchedule:
    """The schedule `OPTIM.LR_SCHEDULER` after `OPTIM.WARMUP_EPOCH` epochs of warm-up.

    Warm-up is "constant" (`WARMUP_CONS_LR`) or "linear" (`WARMUP_MIN_LR` first, then the share of the base rate).
    After it the schedule starts at the base rate, at its own epoch 0 or, without `WARMUP_RECOUNT`, at the epoch
    reached by then.

    Raises:
        ConfigError: an unknown schedule or warm-up, or a STEPSIZE that does not fit it.
    """
    decay = _decay(optim_cfg)
    warmup = max(0, optim_cfg.WARMUP_EPOCH)
    kind, constant, lowest = optim_cfg.WARMUP_TYPE, optim_cfg.WARMUP_CONS_LR, optim_cfg.WARMUP_MIN_LR
    if warmup and kind not in ("constant", "linear"):
        raise ConfigError(f'OPTIM.WARMUP_TYPE is constant or linear, not "{kind}"')
    skipped = 0 if optim_cfg.WARMUP_RECOUNT else warmup

    def rate(base: float, epoch: int) -> float:
        if epoch >= warmup:
            return base * decay(epoch - warmup + skipped) / (decay(skipped) or 1)
        if kind == "constant":
            return constant
        return base * epoch / warmup if epoch else lowest

    return EpochSchedule(optimizer, rate, skipped)
