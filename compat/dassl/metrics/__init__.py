"""Measures of a batch of predictions."""

from .accuracy import compute_accuracy
