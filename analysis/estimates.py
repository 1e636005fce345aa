"""Numbers with how far they can be trusted."""

from collections.abc import Sequence

import numpy as np

from promptbias.experiments.results import mean_std
from promptbias.interp.paired import nan_mean_interval

ROUNDING = 1e-12  # relative


class Estimate(float):
    """A number, and how far it can be trusted. In everything else it is a float.

    Attributes:
        interval: the ends of its 95 % interval over test images, or None.
        std: standard deviation over seeds, or None.
    """

    interval: tuple[float, float] | None
    std: float | None

    def __new__(cls, value: float, interval: tuple[float, float] | None = None, std: float | None = None) -> "Estimate":
        self = super().__new__(cls, value)
        self.interval, self.std = interval, std
        return self

    @property
    def whiskers(self) -> tuple[float, float]:
        """How far the ends of the interval lie below and above; 0 without one."""
        low, high = self.interval or (self, self)
        return max(0.0, self - low), max(0.0, high - self)


def over_seeds(values: Sequence[float], interval: tuple[float, float] | None = None) -> Estimate:
    """The mean of one number for each seed, with their standard deviation; one seed has none."""
    mean, std = mean_std(values)
    if std <= ROUNDING * abs(mean):  # equal values, whose mean has been rounded
        std = 0.0
    return Estimate(mean, interval, std if len(values) > 1 else None)


def mean_estimates(by_image: np.ndarray) -> list[Estimate]:
    """Means over images of what was measured of each, (K, I), NaN where it was not, with bootstrap intervals: K."""
    low, high = nan_mean_interval(by_image)
    return [Estimate(*found) for found in zip(np.nanmean(by_image, -1), zip(low.tolist(), high.tolist()))]
