"""Console output that is also written to a file."""

import contextlib
import os
import sys
import time
from typing import Any, NoReturn

from promptbias.utils.errors import UserError

from .tools import mkdir_if_missing

__all__ = ["Logger", "setup_logger"]


class Logger:
    """Writes to both the console (the previous `sys.stdout`) and a file; other attributes are the console's."""

    def __init__(self, fpath: str | None = None):
        self.console = sys.stdout
        self.file = None
        if fpath is not None:
            mkdir_if_missing(os.path.dirname(fpath))
            # line-buffered, so that the log of a killed run is complete
            self.file = open(fpath, "a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def write(self, msg: str) -> int:
        if self.file is not None:
            try:
                self.file.write(msg)
            except OSError as error:
                self._give_up(error)
        return self.console.write(msg)

    def flush(self) -> None:
        if self.file is not None:
            try:
                self.file.flush()
            except OSError as error:
                self._give_up(error)
        self.console.flush()

    def _give_up(self, error: OSError) -> NoReturn:
        """Close the log, so that the end of the program does not try again, and say why."""
        log, self.file = self.file, None
        with contextlib.suppress(OSError):
            log.close()
        raise UserError(f"cannot write {log.name} ({error.strerror}); free some disk space") from error

    def close(self) -> None:
        """Close the file; the console stays open."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["console"], name)


def setup_logger(output: str | None = None) -> None:
    """Also write everything printed from now on to `output`, a .txt or .log file, or to `output`/log.txt.

    An existing log is kept; the new one gets the time appended to its name.
    """
    if output is None:
        return
    fpath = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.exists(fpath):
        fpath += time.strftime("-%Y-%m-%d-%H-%M-%S")
    sys.stdout = Logger(fpath)
