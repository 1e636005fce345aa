"""Makes `import dassl` work: with the installed Dassl where it runs on the torch that is here, otherwise with ours."""

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import sys
import tempfile

from promptbias.utils.errors import UserError
from promptbias.utils.paths import COMPAT


def provide_dassl() -> None:
    """Make `import dassl` work. Puts our own at the end of `sys.path`, or first where the installed one fails.

    Raises:
        UserError: the installed one fails, and was imported already, so that its place is taken.
    """
    if COMPAT not in sys.path:
        sys.path.append(COMPAT)
    imported = sys.modules.get("dassl")
    spec = imported.__spec__ if imported else importlib.util.find_spec("dassl")
    if spec is None or (spec.origin or "").startswith(COMPAT):
        return
    reason = failure_of_installed_dassl()
    if not reason:
        return
    if imported:
        raise UserError(
            f"the Dassl that is imported does not work here ({reason}), and it is too late to use promptbias's own; "
            "move `import promptbias.plugin` above the first import of dassl, or start with "
            "`python -m promptbias run` in place of `python`"
        )
    for name in [name for name in sys.modules if name.split(".")[0] == "dassl"]:
        del sys.modules[name]
    sys.path.insert(0, COMPAT)
    print(f"the installed Dassl does not work here ({reason}): using the one in {COMPAT}", file=sys.stderr)


@functools.cache
def failure_of_installed_dassl() -> str:
    """Why the installed Dassl does not work with this torch, or "": tries what this family uses and torch changed."""
    try:
        importlib.import_module("dassl")  # before torch, which takes its time
        import torch
        from dassl.config import get_cfg_default
        from dassl.engine import TrainerX  # noqa: F401
        from dassl.optim import build_lr_scheduler
        from dassl.utils import load_checkpoint, save_checkpoint

        optim = get_cfg_default().OPTIM
        optim.WARMUP_EPOCH, optim.WARMUP_TYPE, optim.LR_SCHEDULER = 1, "constant", "cosine"
        scheduler = build_lr_scheduler(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), optim)
        checkpoint = {"state_dict": {}, "epoch": 1, "scheduler": scheduler.state_dict()}
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            save_checkpoint(checkpoint, folder, model_name="probe")
            load_checkpoint(os.path.join(folder, "probe"))
    except Exception as error:  # other people's code on a torch it was not written for: anything can happen
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""
