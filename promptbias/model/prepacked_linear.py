"""Products with weights that do not change.

A processor multiplies fastest by a weight that lies in the order in which it reads it. torch has to lay a weight out anew in
every product, since it may have changed; a frozen one is laid out once for x Wᵀ + b, and once for the gradient of x. Nothing
else is computed in backward, and nothing is kept for it.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

EVERY = slice(None)

try:
    from torch.utils.weak import WeakTensorKeyDictionary

    reorder, multiply = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
    DTYPES = {torch.float32} | ({torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set())
    laid_out = WeakTensorKeyDictionary()  # weight -> {(first, end) of its rows: LaidOut}
except (ImportError, AttributeError):  # torch before 2.0, or built without oneDNN
    laid_out = None


class LaidOut:
    """Rows of a frozen weight (m, k) in oneDNN's order, valid while `state_of` the weight is `state`."""

    def __init__(self, weight: Tensor, rows: slice) -> None:
        self.state = state_of(weight)
        self.weight = weight.detach()[rows]

    @functools.cached_property
    def forward(self) -> Tensor:
        return reorder(self.weight)

    @functools.cached_property
    def backward(self) -> Tensor:
        return reorder(self.weight.t().contiguous())


class Product(torch.autograd.Function):
    """x Wᵀ + b, and the gradient of x alone."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor, laid: LaidOut) -> Tensor:
        ctx.laid = laid
        return multiply(x, laid.forward, bias, "none", [], "")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        return multiply(gradient, ctx.laid.backward, None, "none", [], ""), None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor, rows: slice = EVERY) -> Tensor:
    """x Wᵀ + b, (..., k) -> (..., m), with those `rows` of a weight (n, k) and its bias (n,).

    Torch's own product where a weight is learned, in a dtype that oneDNN cannot have here, on a GPU, and under autocast.
    """
    bias, own = bias[rows], laid_out is None or weight.device.type != "cpu" or weight.dtype not in DTYPES
    if own or weight.requires_grad or bias.requires_grad or autocasts(weight.device.type):
        return F.linear(x, weight[rows], bias)
    parts = laid_out.setdefault(weight, {})
    laid = parts.get((rows.start, rows.stop))
    if laid is None or laid.state != state_of(weight):
        laid = parts[rows.start, rows.stop] = LaidOut(weight, rows)
    return Product.apply(x, bias, laid)


def state_of(tensor: Tensor) -> tuple:
    """What changes when a tensor's values do."""
    return tensor.data_ptr(), tensor._version


def autocasts(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # torch before 2.4
        return torch.is_autocast_cpu_enabled()
