"""`import promptbias`: the trainers IVLP, BiasTuning and ZeroshotCLIP in any checkout of the CoOp family.

It makes them importable as `trainers.ivlp`, `trainers.bias_tuning` and `trainers.zeroshot` beside a checkout's own (by
extending `trainers.__path__`), registers them and their config nodes with Dassl, and touches nothing else.

Where no working Dassl is installed, the small one in `compat/` takes its place.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import sys

HOME = os.path.dirname(os.path.abspath(__file__))
COMPAT = os.path.join(HOME, "compat")


def provide_dassl() -> None:
    """Make `import dassl` work: the installed one if it runs with the torch that is here, otherwise ours."""
    if COMPAT not in sys.path:
        sys.path.append(COMPAT)
    if "dassl" in sys.modules:
        return
    spec = importlib.util.find_spec("dassl")
    if spec.origin and spec.origin.startswith(COMPAT):
        return
    reason = try_installed_dassl()
    if reason:
        for name in [name for name in sys.modules if name.split(".")[0] == "dassl"]:
            del sys.modules[name]
        sys.path.insert(0, COMPAT)
        print(f"the installed Dassl does not work here ({reason}): using the one in {COMPAT}", file=sys.stderr)


def try_installed_dassl() -> str:
    """Why the installed Dassl does not work with this torch, or "". Tries what this family uses and torch has changed."""
    import tempfile

    try:
        import torch
        from dassl.config import get_cfg_default
        from dassl.engine import TrainerX  # noqa: F401
        from dassl.optim import build_lr_scheduler
        from dassl.utils import load_checkpoint, save_checkpoint

        optim = get_cfg_default().OPTIM
        optim.WARMUP_EPOCH, optim.WARMUP_TYPE, optim.LR_SCHEDULER = 1, "constant", "cosine"
        scheduler = build_lr_scheduler(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), optim)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            save_checkpoint(
                {"state_dict": {}, "epoch": 1, "scheduler": scheduler.state_dict()}, folder, model_name="probe"
            )
            load_checkpoint(os.path.join(folder, "probe"))
    except Exception as error:  # other people's code on a torch it was not written for: anything can happen
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def plug_in() -> None:
    """Register our trainers, whoever's `trainers` package it is.

    Raises:
        ImportError: this file lies somewhere by itself.
    """
    if not os.path.isdir(COMPAT):
        raise ImportError(
            f"promptbias is installed without its folders: only {__file__} is there; "
            "install it with pip install -e /path/to/its/checkout"
        )
    provide_dassl()
    trainers = importlib.import_module("trainers")
    ours = os.path.join(HOME, "trainers")
    if ours not in trainers.__path__:
        trainers.__path__.append(ours)
    for name in ("ivlp", "bias_tuning", "zeroshot"):
        importlib.import_module(f"trainers.{name}")


plug_in()
