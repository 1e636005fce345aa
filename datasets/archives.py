"""Unpacks downloaded archives safely: writes only the requested members, and only to the requested paths."""

import contextlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO

from promptbias.utils.errors import UserError
from promptbias.utils.files import CHUNK


class _Rejected(Exception):
    """An archive holds something unsafe, or lacks what was requested."""


def unpack(archive: str, members: Sequence[tuple[str, str]]) -> None:
    """Extract members of a zip or (compressed) tar archive.

    Args:
        archive: path of the archive; the extension tells a zip file from a tar file
        members: pairs of a name in the archive, of a file or of a whole folder, and the path to extract it to; each
            path appears completely or not at all

    Raises:
        UserError: the archive is damaged, lacks a member, or contains links, devices or paths that lead out of it; or
            there is no disk space or no write permission. Whatever was already extracted is removed.
    """
    temporary = {member: f"{path}.unpacking" for member, path in members}
    try:
        _remove_all(temporary.values())  # left over from a killed run
        _extract(archive, temporary)
        for member, path in members:
            if not os.path.exists(temporary[member]):
                raise _Rejected(f"it has no {member}")
            os.replace(temporary[member], path)
    except OSError as error:
        if error.errno is None:  # how gzip and bz2 report a damaged file
            raise _damaged(archive, error) from error
        raise UserError(
            f"cannot unpack {archive} ({error.strerror}: {error.filename}); free some disk space"
        ) from error
    except (_Rejected, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise _damaged(archive, error) from error
    finally:
        _remove_all(temporary.values())


def _damaged(archive: str, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(f"{archive} is not the expected archive ({reason}); delete it and download it again")


def _extract(archive: str, targets: Mapping[str, str]) -> None:
    """Write every file that is a key of `targets`, or lies in a folder that is one, to its target path."""
    from tqdm import tqdm

    for name, opener in tqdm(_files(archive), f"unpacking {os.path.basename(archive)}", unit=" files", leave=False):
        for member, path in targets.items():
            if name != member and not name.startswith(member + "/"):
                continue
            if opener is None:
                raise _Rejected(f"{name} is a link or a device")
            path += name[len(member) :]
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with opener() as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file)


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, "regular files can be opened"
    return file


def _files(archive: str) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """Name of each member that is not a folder, and a function that opens it; None if it is not a regular file."""
    if archive.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                name = _safe_name(info.filename)
                if not info.is_dir():
                    yield name, None if stat.S_ISLNK(info.external_attr >> 16) else partial(file.open, info)
    else:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = _safe_name(member.name)
                if not member.isdir():
                    yield name, partial(_open_member, tar, member) if member.isfile() else None
            while tar.fileobj is not None and tar.fileobj.read(
                CHUNK
            ):  # the checksum of a compressed file is at its end
                pass


def _safe_name(name: str) -> str:
    """The normalised name of a member; rejects absolute paths and those with ".." in them."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or name[:1] in ("/", "\\") or name[1:2] == ":":
        raise _Rejected(f"{name} leads out of it")
    return "/".join(parts)


def _remove_all(paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
