"""Linear layers whose weight does not change.

A processor multiplies fastest by a weight that lies in the order in which it reads it. torch must reorder a weight in
every product, since it may have changed; a frozen one is packed once for x Wᵀ + b, and once for the gradient of x.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EVERY = slice(None)

try:
    from torch.utils.weak import WeakTensorKeyDictionary

    reorder, multiply = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
    DTYPES = {torch.float32} | ({torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set())
    packed_weights: Any = WeakTensorKeyDictionary()  # weight -> {(first, end) of its rows: PackedWeight}
except (ImportError, AttributeError):  # torch before 2.0, or built without oneDNN
    packed_weights = None


class PackedWeight:
    """Rows of a frozen weight (m, k) in oneDNN's order, valid while `version_of` the weight is `version`."""

    def __init__(self, weight: Tensor, rows: slice) -> None:
        self.version = version_of(weight)
        self.weight = weight.detach()[rows]

    @functools.cached_property
    def forward(self) -> Tensor:
        return reorder(self.weight)

    @functools.cached_property
    def backward(self) -> Tensor:
        return reorder(self.weight.t().contiguous())


class PackedLinear(torch.autograd.Function):
    """x Wᵀ + b, with the gradients of x and of b."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor, packed: PackedWeight) -> Tensor:
        ctx.packed = packed
        return multiply(x, packed.forward, bias, "none", [], "")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        wants_x, wants_bias, _ = ctx.needs_input_grad
        of_x = multiply(gradient, ctx.packed.backward, None, "none", [], "") if wants_x else None
        of_bias = gradient.flatten(0, -2).sum(0) if wants_bias else None
        return of_x, of_bias, None


def linear(x: Tensor, weight: Tensor, bias: Tensor, rows: slice = EVERY, silu: bool = False) -> Tensor:
    """x Wᵀ + b, (..., k) -> (..., m), with those `rows` of a weight (n, k) and its bias (n,); SiLU of it with `silu`.

    Torch's own product where the weight is trained, in a dtype that oneDNN cannot have here, on a GPU, under autocast,
    and where the computation is traced.
    """
    bias = bias[rows]
    torchs_own = packed_weights is None or weight.device.type != "cpu" or weight.dtype not in DTYPES
    if torchs_own or weight.requires_grad or is_autocast(weight.device.type) or is_traced():
        return activated(F.linear(x, weight[rows], bias), silu)
    parts = packed_weights.setdefault(weight, {})
    packed = parts.get((rows.start, rows.stop))
    if packed is None or packed.version != version_of(weight):
        packed = parts[rows.start, rows.stop] = PackedWeight(weight, rows)
    if torch.is_grad_enabled() and (x.requires_grad or bias.requires_grad):
        return activated(PackedLinear.apply(x, bias, packed), silu)
    return multiply(x, packed.forward, bias, "swish" if silu else "none", [], "")


def activated(x: Tensor, silu: bool) -> Tensor:
    """SiLU of x if it is wanted; in place where backward does not need x."""
    return F.silu(x, inplace=not x.requires_grad) if silu else x


def version_of(tensor: Tensor) -> tuple[int, int]:
    """What changes when a tensor's values do."""
    return tensor.data_ptr(), tensor._version


def is_traced() -> bool:
    """Whether torch.export, torch.compile or torch.jit.trace records the computation.

    Weights have no addresses then, and what is recorded must hold wherever it runs.
    """
    compiler = getattr(torch, "compiler", None)  # from torch 2.1 on
    return torch.jit.is_tracing() or (compiler is not None and compiler.is_compiling())


def is_autocast(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # torch before 2.4
        return torch.is_autocast_cpu_enabled()
