"""Marks of tests that need what an older torch, or an installation without extras, does not have."""

from importlib.util import find_spec

import pytest
import torch


def needs(has: bool, package, what: str):
    return pytest.mark.skipif(not has, reason=f"{package.__name__} {package.__version__} has no {what}")


def needs_packages(*names: str):
    """Of the extra `export`, which the extra `test` installs; the lowest versions of torch have none of them."""
    missing = [name for name in names if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)}: not installed")


def has_half_convolutions() -> bool:
    try:
        torch.nn.functional.conv2d(*torch.zeros(2, 1, 1, 1, 1, dtype=torch.half))
    except RuntimeError:
        return False
    return True


needs_export = needs(hasattr(torch, "export"), torch, "torch.export")
needs_float8 = needs(hasattr(torch, "float8_e4m3fn"), torch, "float8")


def has_strict_scheduler() -> bool:
    """Whether a scheduler refuses the argument `verbose`, with which upstream's Dassl calls it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    try:
        torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1, -1, False)
    except TypeError:
        return True
    return False


needs_flop_counter = needs(find_spec("torch.utils.flop_counter") is not None, torch, "count of operations")
needs_strict_scheduler = needs(has_strict_scheduler(), torch, "scheduler that upstream's Dassl fails with")
needs_half = needs(has_half_convolutions(), torch, "float16 convolutions on a CPU")
