"""What makes commands start sooner and run faster, before anything heavy is imported."""

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import time

STARTED = time.time()  # of the process, nearly: what imports this does so first

# `import torchvision` imports them, and with them torch's compiler: nearly half of the time until a run begins.
UNUSED = ("torchvision.models", "torchvision.ops", "torchvision.datasets")


class PutOff(importlib.abc.MetaPathFinder):
    """Finds the modules UNUSED as anybody would, but lets them run only when something in them is asked for."""

    def find_spec(self, name, path, target=None):
        if name not in UNUSED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def put_off_unused() -> None:
    """To be called before anything imports torchvision; afterwards it does nothing."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, PutOff) for finder in sys.meta_path):
        sys.meta_path.insert(0, PutOff())


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors instead of handing it back to the system after every step.

    Otherwise each step asks for the same gigabytes again, and the kernel clears them page by page.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
