"""Top-k accuracy."""

from collections.abc import Sequence

import torch

__all__ = ["compute_accuracy"]


def compute_accuracy(
    output: torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor],
    target: torch.Tensor,
    topk: Sequence[int] = (1,),
) -> list[torch.Tensor]:
    """How often the label is among the k highest scores.

    Args:
        output: scores (B, K), or a tuple that starts with them.
        target: labels (B,).
        topk: values of k.

    Returns:
        For each k the percentage, of shape (1,), on the device of the scores.
    """
    scores = output[0] if isinstance(output, (tuple, list)) else output
    ranked = scores.topk(max(topk), dim=1).indices
    hits = ranked == target.unsqueeze(1)
    return [hits[:, :k].any(dim=1).float().mean(dim=0, keepdim=True) * 100 for k in topk]
