"""The losses of an epoch, read from the device only when they are reported."""

import math

import torch
from torch import Tensor

from promptbias.utils.errors import UserError


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
        """Keep a step's loss, without waiting for the device to compute it."""
        self.losses.append(loss.detach())

    def mean_since_last(self) -> float:
        """Mean loss of the steps since this was last called; NaN if there is none.

        Raises:
            UserError: one of them is not finite; the checkpoint of the last good epoch stays.
        """
        losses = torch.stack(self.losses[self.reported :]).tolist() if self.reported < len(self.losses) else []
        for step, loss in enumerate(losses, self.reported + 1):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {step} of epoch {self.epoch + 1}; "
                    "the last good checkpoint is kept; lower OPTIM.LR or use PREC fp32"
                )
        self.reported = len(self.losses)
        return sum(losses) / len(losses) if losses else math.nan
