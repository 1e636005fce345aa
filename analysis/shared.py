"""What several figures of a report need, computed once for all of them: small numbers, never maps or images.

It is kept with the comparison and by the images that it is of, so that no figure sees what was computed from others.
"""

from collections.abc import Sequence

import numpy as np

from promptbias.interp.accuracy import model_outcomes
from promptbias.interp.branches import branches_of
from promptbias.interp.prompt_term import PromptTerm

from .comparison import Comparison


def outcomes(comparison: Comparison, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Whether the models with these labels get each test image right, (I,) bool each."""
    keys = {label: ("right", label, tuple(comparison.indices)) for label in labels}
    missing = {label: comparison.models[label] for label in labels if keys[label] not in comparison.shared}
    if missing:
        found = model_outcomes(missing, comparison.batches("accuracy"))
        comparison.shared.update({keys[label]: right for label, right in found.items()})
    return {label: comparison.shared[keys[label]] for label in labels}


def mean_terms(comparison: Comparison) -> dict[str, PromptTerm]:
    """The mean of u in the tuned run by branch, over the few-shot training images or all classes."""
    key = ("mean of u", tuple(comparison.few_shot))
    if key not in comparison.shared:
        comparison.shared[key] = {
            branch.name: PromptTerm(branch).stream(branch.inputs(comparison.batches("mean of u", "train")))
            for branch in branches_of(comparison.tuned)
        }
    return comparison.shared[key]
