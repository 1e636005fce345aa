"""What makes commands start sooner and run faster, called before anything heavy is imported."""

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import time

PROCESS_START = time.perf_counter()  # approximately: commands import this module first

# `import torchvision` imports these, and with them torch's compiler: nearly half of the startup time of a run.
UNUSED = ("torchvision.models", "torchvision.ops", "torchvision.datasets")


class LazyImports(importlib.abc.MetaPathFinder):
    """Finds the modules in UNUSED as usual, but executes each only on the first access to one of its attributes."""

    def find_spec(self, name, path, target=None):
        if name not in UNUSED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def defer_unused_imports() -> None:
    """Install LazyImports. Must be called before torchvision is imported; afterwards it does nothing."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, LazyImports) for finder in sys.meta_path):
        sys.meta_path.insert(0, LazyImports())


def complete_deferred_imports() -> None:
    """Execute what LazyImports has put off, and put off nothing more.

    To be called before a package that needs all of torchvision: some of torch's own modules look at every module while
    they are imported, which would execute the deferred ones in an order in which they cannot be.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, LazyImports)]
    for name in UNUSED:
        getattr(sys.modules.get(name), "__file__", None)


def disable_malloc_trim() -> None:
    """Let glibc keep the memory of freed tensors instead of returning it to the system after every step.

    Otherwise each step requests the same gigabytes again, and the kernel clears them page by page.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
