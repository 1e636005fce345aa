"""What tells that a training diverged. The losses are read from the device only when they are reported."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from promptbias.utils.contents import unusable
from promptbias.utils.errors import UserError

from . import distributed


class EpochLosses:
    """Losses of the steps of one epoch.

    Args:
        epoch: from 0.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.losses: list[Tensor] = []
        self.reported = 0

    def add(self, loss: Tensor) -> None:
        """Keep a step's loss, or this process's part of it, without waiting for the device to compute it."""
        self.losses.append(loss.detach())

    def mean_since_last(self) -> float:
        """Mean loss of the steps since this was last called; NaN if there is none.

        Raises:
            UserError: one of them is not finite; the checkpoint of the last good epoch stays.
        """
        new = self.losses[self.reported :]
        losses = distributed.sum_over_processes(torch.stack(new)).tolist() if new else []
        for step, loss in enumerate(losses, self.reported + 1):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {step} of epoch {self.epoch + 1}; "
                    "the last good checkpoint is kept; lower OPTIM.LR or use PREC fp32"
                )
        self.reported = len(self.losses)
        return sum(losses) / len(losses) if losses else math.nan


def refuse_diverged(parameters: Mapping[str, Tensor], epoch: int) -> None:
    """Refuse what the last step of an epoch may have done, which no loss tells.

    Args:
        parameters: what is trained, by name.
        epoch: from 0.

    Raises:
        UserError: one is not finite, or so large that the model overflows; the checkpoint of the last good epoch stays.
    """
    problem = unusable(parameters.items())
    if problem:
        raise UserError(
            f"the parameters are unusable after epoch {epoch + 1}, {problem}; "
            "the last good checkpoint is kept; lower OPTIM.LR or use PREC fp32"
        )
