"""What the frozen weights and the activations are kept in."""

import contextlib

import torch

from promptbias.utils.errors import UserError

# "amp" keeps float32 and lets autocast choose.
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "amp": torch.float32,
}


def has_native_bf16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, and not by way of float32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        flags = set(file.read().split())
        return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return False


def resolve_precision(name: str, device: str) -> str:
    """The precision that PREC means on "cpu" or "cuda": `auto` is the fastest that the device does well.

    Raises:
        UserError: no such precision.
    """
    if name == "auto":
        return "bf16" if has_native_bf16(device) else ("amp" if device == "cuda" else "fp32")
    if name not in DTYPES:
        raise UserError(f'PREC is "{name}", but must be one of auto, {", ".join(DTYPES)}')
    return name
