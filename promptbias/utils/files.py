"""Files and folders that are never half-written, and what can be told of a file without loading it."""

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from promptbias.utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 20  # bytes read at a time
PARTIAL = ".partial"  # how the hidden name of a file ends that is still being written
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` for writing; it replaces `path` only if the block succeeds.

    What killed processes left of the same name is removed first.

    Args:
        mode: "w" (UTF-8) or "wb".

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = os.path.abspath(path)
    try:
        file = _open_partial(path, mode)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a full disk behind a network is only noticed here
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(file.name, 0o666 & ~umask)  # tempfile makes private files; results get the usual permissions
            if fcntl:  # before the lock is gone
                os.replace(file.name, path)
        if not fcntl:
            os.replace(file.name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(file.name)
        # An error in writing names no file, and one in what comes after it names ours.
        if isinstance(error, OSError) and error.errno and error.filename in (None, file.name):
            raise _unwritable(path, error) from error
        raise


def _open_partial(path: str, mode: str) -> IO:
    """A new hidden file for what will be `path`, locked as long as it is open."""
    folder, name = os.path.split(path)
    encoding = None if "b" in mode else "utf-8"
    _remove_dead(folder, f".{glob.escape(name)}.*{PARTIAL}")
    while True:
        os.makedirs(folder, exist_ok=True)
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            mode, dir=folder, prefix=f".{name}.", suffix=PARTIAL, encoding=encoding, delete=False
        )
        if fcntl:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(file.name):
            return file
        file.close()  # another process took it for a dead one's before it was locked


def _unwritable(path: str, error: OSError) -> UserError:
    """What to say of a file that could not be written."""
    room = "free some disk space, or " if error.errno in DISK_FULL else ""
    return UserError(f"cannot write {path} ({error.strerror}); {room}choose another output folder")


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Remove what killed processes left half-written in `folder` and the folders in it, and no living process's."""
    _remove_dead(folder, f".*{PARTIAL}", f"*/.*{PARTIAL}")


def _remove_dead(folder: str | os.PathLike, *patterns: str) -> None:
    """Remove the partial files and folders of these names, but for those that a living process holds a lock on."""
    for path in [path for pattern in patterns for path in Path(folder).glob(pattern)]:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a named pipe would wait
            try:
                if fcntl:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while a process writes it
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.remove(path)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def partial_folder(path: str | os.PathLike) -> Iterator[str]:
    """A hidden folder beside `path` to write into, which is gone afterwards unless the block has renamed it.

    What killed processes left of the same kind is removed first.

    Raises:
        OSError: the folder of `path` cannot be written to.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    _remove_dead(folder, f".{glob.escape(name)}.*{PARTIAL}")
    while True:
        temporary = tempfile.mkdtemp(dir=folder, prefix=f".{name}.", suffix=PARTIAL)
        with contextlib.ExitStack() as stack:
            if fcntl:
                with contextlib.suppress(OSError):  # a file system without locks
                    descriptor = os.open(temporary, os.O_RDONLY)
                    stack.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not os.path.exists(temporary):
                continue  # another process took it for a dead one's before it was locked
            try:
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return


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
