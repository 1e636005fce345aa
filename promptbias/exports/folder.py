"""A folder that is never half-written."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from promptbias.utils.errors import UserError


@contextlib.contextmanager
def atomic_folder(path: str) -> Iterator[str]:
    """A new folder beside `path` to write into; it takes that name only if the block succeeds, else nothing remains.

    Raises:
        UserError: `path` cannot be written to, or exists.
    """
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
        temporary = tempfile.mkdtemp(dir=folder, prefix=f".{name}.", suffix=".partial")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --out") from error
    try:
        yield temporary
        usual_permissions(temporary)
        try:
            os.rename(temporary, path)
        except OSError as error:  # somebody else was faster
            raise UserError(f"cannot write {path} ({error.strerror}); choose another --out") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def usual_permissions(top: str) -> None:
    """Give a folder and all in it the permissions of new files; tempfile and safetensors make private ones."""
    umask = os.umask(0)
    os.umask(umask)
    for folder, _, files in os.walk(top):
        os.chmod(folder, 0o777 & ~umask)
        for name in files:
            os.chmod(os.path.join(folder, name), 0o666 & ~umask)
