"""What commands do before anything heavy is imported: signals, deferred imports, memory. Imports next to nothing."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from types import CodeType, FrameType

PROCESS_START = time.perf_counter()  # approximately: commands import this module first

# What a signal makes of a command: its exit status, as shells count it, and what it says.
STOPS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
RETRY = 0.05  # seconds
# Where Python ignores exceptions: in destructors, of which those of data loaders take long, and around a fork.
DEAF = ("__del__", "_launch")


class Terminated(KeyboardInterrupt):
    """SIGTERM, as of a batch system whose time is up: cleans up wherever Ctrl-C does."""


def handle_signals() -> None:
    """From now on Ctrl-C and SIGTERM end this process as they end a command: in one line, with the usual status.

    While a module is being imported, and at the second signal, it ends at once. Otherwise KeyboardInterrupt or
    Terminated is raised, so that nothing stays half-written; again and again where it goes astray, until `stopped`. A
    signal that the parent process ignores (`nohup`, `&` in a script) stays ignored.
    """
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker of a data loader, forked from the process that says what happened
            os._exit(0)
        if any("importlib._bootstrap" in code.co_filename for code in _stack(frame)):
            _exit(number)  # extension modules may swallow an exception, or die of it
        for each in STOPS:
            signal.signal(each, lambda number, _: _exit(number))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises for workers that the same signal has ended
        sys.unraisablehook = lambda _: None  # objects that are torn down half-made complain
        signal.signal(signal.SIGALRM, lambda _, later: _raise(number, later))
        signal.setitimer(signal.ITIMER_REAL, RETRY, RETRY)
        _raise(number, frame)

    for number in STOPS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, stop)


def stopped() -> None:
    """To be called where KeyboardInterrupt has arrived, and before a process ends: it is not raised again."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _raise(number: int, frame: FrameType | None) -> None:
    """Raise what a signal means, unless it is on its way already or would be ignored here."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error is None and not any(code.co_name in DEAF for code in _stack(frame)):
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _stack(frame: FrameType | None) -> Iterator[CodeType]:
    """The functions on the stack, the innermost first."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _exit(number: int) -> None:
    """End the process without cleaning up."""
    status, message = STOPS[signal.Signals(number)]
    os.write(2, f"{message}\n".encode())
    os._exit(status)


# `import torchvision` imports these, and with them torch's compiler: nearly half of the startup time of a run.
UNUSED = ("torchvision.models", "torchvision.ops", "torchvision.datasets")


class LazyImports:
    """Finds the modules in UNUSED as usual, but executes each only on the first access to one of its attributes."""

    def find_spec(self, name, path, target=None):
        if name not in UNUSED:
            return None
        from importlib.machinery import PathFinder
        from importlib.util import LazyLoader

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
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
    import ctypes

    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
