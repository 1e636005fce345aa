"""Files that are never half-written."""
import contextlib
import os
import tempfile
from typing import IO, Iterator

from .errors import UserError


@contextlib.contextmanager
def writing(path: str, mode: str = "w") -> Iterator[IO]:
    """Open a file to write beside `path`; it takes the name `path` only when the block ends well.

    Raises:
        UserError: the folder cannot be written to.
    """
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=folder, prefix=os.path.basename(path) + ".")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another output folder") from error
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)  # mkstemp makes private files; a result is as readable as any other file
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(beside)
        raise
