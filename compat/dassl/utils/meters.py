"""Running averages of the metrics that training logs."""

from collections import defaultdict

import torch

__all__ = ["AverageMeter", "MetricMeter"]

Number = int | float | torch.Tensor


class AverageMeter:
    """The last value and the mean of all, or with `ema` an exponential moving average with decay 0.9."""

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
    """One meter per name; printed as "name last (mean)", joined by `delimiter`."""

    def __init__(self, delimiter: str = " "):
        self.meters: dict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: dict[str, Number] | None) -> None:
        """Add the metrics of one step; None, from a step without metrics, is ignored.

        Raises:
            TypeError: `input_dict` is not a dictionary.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, dict):
            raise TypeError(f"the metrics of a step must be a dictionary, not {type(input_dict).__name__}")
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())
