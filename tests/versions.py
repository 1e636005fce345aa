"""Marks of tests that need what an older torch does not have; what we do ourselves works without it."""

import pytest
import torch


def needs(has: bool, package, what: str):
    return pytest.mark.skipif(not has, reason=f"{package.__name__} {package.__version__} has no {what}")


def has_half_convolutions() -> bool:
    try:
        torch.nn.functional.conv2d(*torch.zeros(2, 1, 1, 1, 1, dtype=torch.half))
    except RuntimeError:
        return False
    return True


needs_export = needs(hasattr(torch, "export"), torch, "torch.export")
needs_float8 = needs(hasattr(torch, "float8_e4m3fn"), torch, "float8")
needs_half = needs(has_half_convolutions(), torch, "float16 convolutions on a CPU")
