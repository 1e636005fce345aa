"""Errors that a user can cause, reported in one sentence."""

import difflib
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable

from promptbias.utils.paths import IN_CHECKOUT
from promptbias.utils.startup import (
    STOPS,
    Terminated,
    defer_unused_imports,
    disable_malloc_trim,
    handle_signals,
    stopped,
)


class UserError(Exception):
    """Something the user can put right. The message says what is wrong and how to fix it, in one sentence.

    The base of all such errors, including ConfigError, ImageError and CheckpointError of the Dassl in compat/. What
    another library says, quoted in a message, may have several lines: they become one.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(re.sub(r"\s*\n\s*", " ", message))


# What torch, Python and the system say when something has run out, in lower case -> a sentence.
MEMORY = (
    "memory ran out; use smaller batches (DATALOADER.TRAIN_X.BATCH_SIZE, DATALOADER.TEST.BATCH_SIZE), fewer workers "
    "(DATALOADER.NUM_WORKERS), or raise the limit (ulimit -v, or that of your batch system)"
)
THREADS = (
    "no further thread or process could be started; raise the limits (ulimit -u, ulimit -v), or use fewer "
    "(OMP_NUM_THREADS=1, DATALOADER.NUM_WORKERS 0)"
)
LIBRARIES = "there is too little memory to load PyTorch; raise the limit (ulimit -v, or that of your batch system)"
SHARED_MEMORY = "shared memory ran out; set DATALOADER.NUM_WORKERS to 0, or make /dev/shm larger"
WORKER = "a worker that reads images was killed, as it happens when memory runs out; lower DATALOADER.NUM_WORKERS"
EXHAUSTED = {
    "can't start new thread": THREADS,
    "thread creation failed": THREADS,
    "resource temporarily unavailable": THREADS,
    "unable to open shared memory": SHARED_MEMORY,
    "unable to write to file </torch": SHARED_MEMORY,
    "insufficient shared memory": SHARED_MEMORY,
    "out of shared memory": SHARED_MEMORY,
    "is killed by signal": WORKER,
    "exited unexpectedly": WORKER,
    "out of memory": MEMORY,
    "not enough memory": MEMORY,
    "can't allocate memory": MEMORY,
    "cannot allocate memory": MEMORY,
    "bad_alloc": MEMORY,
    "failed to map segment": LIBRARIES,
}


def nearest(name: str, known: Iterable[str], otherwise: Iterable[str] = ()) -> str:
    """A hint for an unknown name: the closest known one or, if none is close, all of them (or those in `otherwise`).

    >>> nearest("eurosatt", ["eurosat", "dtd"])
    'did you mean "eurosat"?'
    >>> nearest("imagenet", ["eurosat", "dtd"])
    'known: dtd, eurosat'
    """
    known = sorted(known)
    by_folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return f'did you mean "{by_folded[close[0]]}"?' if close else f"known: {', '.join(otherwise or known) or 'none'}"


def sentence(error: BaseException) -> str:
    """What to tell the user of an error that he can put right; "" for one that is a bug.

    Besides UserError these are OSError (an unreadable file, a full disk), a package that is not installed, and memory,
    threads or shared memory that have run out.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, (RuntimeError, ImportError, OSError)):
        said = str(error).lower()
        exhausted = next((what for words, what in EXHAUSTED.items() if words in said), "")
        if exhausted:
            return exhausted
    if isinstance(error, ModuleNotFoundError):
        install = "pip install -e ." if IN_CHECKOUT else "pip install promptbias"
        return f"{error.name} is not installed; run `{install}`, or activate its environment"
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"the disk is full ({what}); free some space, or choose another output folder"
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return f"{name}: {what}" if name else what
    return ""


def cli(main: Callable[[], int | None]) -> None:
    """Run a command and exit with its status.

    An error that the user can put right becomes one line on stderr and status 1, Ctrl-C status 130, SIGTERM 143. A
    reader that has seen enough (`| head`) is no error, but the command ends.
    """
    try:
        handle_signals()
        prepare_stdout()
        defer_unused_imports()
        disable_malloc_trim()
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        status, message = STOPS[signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT]
        print(str(error) or message, file=sys.stderr)
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except Exception as error:
        message = sentence(error)
        if not message:
            raise
        print(f"error: {printable(message)}", file=sys.stderr)
        status = 1
    finally:
        stopped()
    abandon_broken_stdout()
    sys.exit(status)


def prepare_stdout() -> None:
    """Make sure that there is a stdout, whatever the caller closed, and that it takes every letter."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def abandon_broken_stdout() -> None:
    """Drop what stdout does not take any more; Python would complain about it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(message: str) -> str:
    """A message in one line, with whatever a file name could do to a terminal escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
