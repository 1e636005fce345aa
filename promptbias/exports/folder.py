"""A folder that is never half-written."""

import contextlib
import os
from collections.abc import Iterator

from promptbias.utils.errors import UserError
from promptbias.utils.files import partial_folder


@contextlib.contextmanager
def atomic_folder(path: str) -> Iterator[str]:
    """A new folder beside `path` to write into; it takes that name only if the block succeeds, else nothing remains.

    Raises:
        UserError: `path` cannot be written to, or exists.
    """
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(partial_folder(path))
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); choose another --out") from error
        yield temporary
        usual_permissions(temporary)
        try:
            os.rename(temporary, path)
        except OSError as error:  # somebody else was faster
            raise UserError(f"cannot write {path} ({error.strerror}); choose another --out") from error


def usual_permissions(top: str) -> None:
    """Give a folder and all in it the permissions of new files; tempfile and safetensors make private ones."""
    umask = os.umask(0)
    os.umask(umask)
    for folder, _, files in os.walk(top):
        os.chmod(folder, 0o777 & ~umask)
        for name in files:
            os.chmod(os.path.join(folder, name), 0o666 & ~umask)
