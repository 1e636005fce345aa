"""Running averages of what training prints."""

from collections import defaultdict
from typing import Union

import torch

__all__ = ["AverageMeter", "MetricMeter"]

Number = Union[int, float, torch.Tensor]


class AverageMeter:
    """The last value and the mean of all, or with `ema` a moving average that forgets a tenth at each step."""

    def __init__(self, ema: bool = False):
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val: Number, n: int = 1) -> None:
        """Count `val`, a number or a tensor of one element, `n` times."""
        if isinstance(val, torch.Tensor):
            val = val.item()
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * val if self.ema else self.sum / self.count


class MetricMeter:
    """One meter per name; as text "name last (mean)", joined by `delimiter`."""

    def __init__(self, delimiter: str = " "):
        self.meters: dict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: dict[str, Number] | None) -> None:
        """Count every value of a step; None, from a step that measured nothing, is passed over.

        Raises:
            TypeError: `input_dict` is no dictionary.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, dict):
            raise TypeError(f"a step gives its losses as a dictionary, not as {type(input_dict).__name__}")
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())
