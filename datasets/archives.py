"""Archives from the network, unpacked without trust: only what was asked for is written, and only where."""

import contextlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from typing import IO
from collections.abc import Callable, Iterator, Sequence

from promptbias.utils.errors import UserError
from promptbias.utils.files import CHUNK


class _Refused(Exception):
    """Something in an archive that has no business there."""


def unpack(archive: str, members: Sequence[tuple[str, str]]) -> None:
    """Take members out of a tar (however compressed) or zip archive.

    Args:
        archive: path of the archive; its name tells a zip file from a tar file
        members: pairs of a name in the archive, of a file or of a folder with all in it, and the path that it gets;
            each appears there whole or not at all

    Raises:
        UserError: the archive is damaged, lacks a member, or holds paths that lead out of it, links or devices; there
            is no room or no right to write. What had been unpacked by then is removed.
    """
    from tqdm import tqdm

    beside = {member: f"{path}.unpacking" for member, path in members}
    try:
        for path in beside.values():
            _remove(path)  # of a run that was killed
        bar = tqdm(_files(archive), desc=f"unpacking {os.path.basename(archive)}", unit=" files", leave=False)
        for name, opened in bar:
            for member, path in beside.items():
                if name == member or name.startswith(member + "/"):
                    if opened is None:
                        raise _Refused(f"{name} is a link or a device")
                    path += name[len(member) :]
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with opened() as source, open(path, "wb") as file:
                        shutil.copyfileobj(source, file)
        for member, path in members:
            if not os.path.exists(beside[member]):
                raise _Refused(f"it has no {member}")
            os.replace(beside[member], path)
    except OSError as error:
        if error.errno is None:  # gzip's and bz2's way to say that a file is damaged
            raise _damaged(archive, error) from error
        raise UserError(f"cannot unpack {archive} ({error.strerror}: {error.filename}); make room there") from error
    except (_Refused, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise _damaged(archive, error) from error
    finally:
        for path in beside.values():
            _remove(path)


def _damaged(archive: str, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(f"{archive} is not the archive that it should be ({reason}); delete it and fetch it again")


def _files(archive: str) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """Name of each member that is no folder, and how to open it; None for what is no plain file."""
    if archive.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                name = _checked(info.filename)
                if not info.is_dir():
                    link = stat.S_ISLNK(info.external_attr >> 16)
                    yield name, None if link else lambda: file.open(info)  # called before the loop goes on
    else:
        with tarfile.open(archive) as file:
            for info in file:
                name = _checked(info.name)
                if not info.isdir():
                    yield name, (lambda: file.extractfile(info)) if info.isfile() else None
            while file.fileobj.read(CHUNK):  # a compressed file has its checksum at its end
                pass


def _checked(name: str) -> str:
    """The name without "./" and the like; refused if it is absolute or climbs."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or name[:1] in ("/", "\\") or name[1:2] == ":":
        raise _Refused(f"{name} leads out of it")
    return "/".join(parts)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
