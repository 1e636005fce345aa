"""Console output that is also kept in a file."""

import os
import sys
import time
from typing import Any

from .tools import mkdir_if_missing

__all__ = ["Logger", "setup_logger"]


class Logger:
    """Writes to the console that was `sys.stdout` and to a file; everything else is the console's."""

    def __init__(self, fpath: str | None = None):
        self.console = sys.stdout
        self.file = None
        if fpath is not None:
            mkdir_if_missing(os.path.dirname(fpath))
            # by the line: a killed run keeps what it had printed
            self.file = open(fpath, "a", buffering=1, encoding="utf-8")

    def write(self, msg: str) -> int:
        if self.file is not None:
            self.file.write(msg)
        return self.console.write(msg)

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()
        self.console.flush()

    def close(self) -> None:
        """Close the file; the console belongs to others."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["console"], name)


def setup_logger(output: str | None = None) -> None:
    """From now on keep what is printed in `output`, a .txt or .log file, or in `output`/log.txt.

    An earlier log is left as it is: the new one gets the time in its name.
    """
    if output is None:
        return
    fpath = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.exists(fpath):
        fpath += time.strftime("-%Y-%m-%d-%H-%M-%S")
    sys.stdout = Logger(fpath)
