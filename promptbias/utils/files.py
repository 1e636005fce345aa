"""Files that are never half-written, and what can be told of a file without loading it."""

import contextlib
import hashlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO

from promptbias.utils.errors import UserError

CHUNK = 1 << 20  # bytes read at a time


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` for writing; it replaces `path` only if the block succeeds.

    Args:
        mode: "w" (UTF-8) or "wb".

    Raises:
        UserError: the folder cannot be written to.
    """
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=os.path.basename(path) + ".")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another output folder") from error
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; results get the usual permissions
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def regular_file(path: str | os.PathLike) -> str:
    """`path`, to be opened: reading a named pipe would wait for ever, and a device may never end.

    Raises:
        OSError: nothing is there, or it may not be looked at; as `open` does.
        UserError: there is something else than a file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise UserError(f"{os.fspath(path)} is not a regular file but {kind.get(stat.S_IFMT(mode), 'a device')}")
    return os.fspath(path)


def checksum(path: str | os.PathLike, kind: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal digits."""
    digest = hashlib.new(kind)
    with open(regular_file(path), "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_torchscript(path: str | os.PathLike) -> bool:
    """Whether a file is a TorchScript archive, which holds code; some versions of `torch.load` run it unasked."""
    if not zipfile.is_zipfile(regular_file(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
