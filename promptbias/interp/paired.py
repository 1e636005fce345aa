"""Intervals for what is measured on the same images: paired bootstrap.

All variants of a comparison see the same images, so that most of the chance in each accuracy is shared. Images are
drawn again with replacement, the same ones for all variants; differences, ratios or areas are computed of each draw.
"""

import warnings
from collections.abc import Callable

import numpy as np

RESAMPLES, SEED, BATCH = 2000, 0, 100


def bootstrap_means(outcomes: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Means over images of resampled outcomes.

    Args:
        outcomes: (..., N), what was measured of each of N images.

    Returns:
        (resamples, ...): the means of each draw; the n-th draw is of the same images for all of them.
    """
    outcomes = np.asarray(outcomes, dtype=np.float64)
    flat, count = outcomes.reshape(-1, outcomes.shape[-1]), outcomes.shape[-1]
    draws = np.random.default_rng(seed)
    batches = [min(BATCH, resamples - done) for done in range(0, resamples, BATCH)]
    means = [draws.multinomial(count, np.full(count, 1 / count), size) @ flat.T / count for size in batches]
    return np.concatenate(means).reshape(resamples, *outcomes.shape[:-1])


def interval(
    outcomes: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], level: float = 0.95, seed: int = SEED
) -> np.ndarray:
    """Percentile bootstrap interval of a statistic of means over images.

    Args:
        outcomes: (..., N).
        statistic: takes means (R, ...) and returns the statistic of each draw, (R, *S).

    Returns:
        (2, *S): the ends of the interval.
    """
    values = statistic(bootstrap_means(outcomes, seed=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where the statistic is NaN in every draw, so is the interval
        return np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)


def nan_mean_interval(outcomes: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Interval of the means over images of (..., N), each over the images where it is not NaN: (2, ...)."""
    known = ~np.isnan(outcomes)
    with np.errstate(invalid="ignore"):  # a draw without any of them is NaN, and left out
        return interval(np.stack([np.where(known, outcomes, 0), known]), lambda means: means[:, 0] / means[:, 1], level)
