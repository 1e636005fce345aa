"""Unpacks downloaded archives safely: writes only the requested members, and only to the requested paths."""

import contextlib
import errno
import gzip
import os
import shutil
import stat
import tarfile
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, NamedTuple

from promptbias.utils.errors import UserError
from promptbias.utils.files import CHUNK, regular_file

BLOCK = 4096  # bytes of the disk that even an empty file costs
# Images are compressed already, so an archive of them unpacks to little more than its own size.
EXPANSION, SLACK = 10, 100 * 2**20


class _Rejected(Exception):
    """An archive holds something unsafe, or lacks what was requested."""


class _TooLarge(Exception):
    """An archive unpacks to more than is expected of its size."""


class _Member(NamedTuple):
    """A member of an archive that is not a folder; `open` is None if it is not a regular file either."""

    name: str
    size: int
    open: Callable[[], IO[bytes]] | None


def unpack(archive: str, members: Sequence[tuple[str, str]], any_size: bool = False) -> None:
    """Extract members of a zip or (gzipped) tar archive.

    Args:
        archive: path of the archive; the extension tells a zip file from a tar file
        members: pairs of a name in the archive, of a file or of a whole folder, and the path to extract it to; each
            path appears completely or not at all
        any_size: whether it may unpack to more than is expected of its size

    Raises:
        UserError: the archive is damaged, lacks a member, or contains links, devices or paths that lead out of it; it
            unpacks to too much; or there is no disk space or no write permission. Whatever was already extracted is
            removed.
    """
    regular_file(archive)
    temporary = {member: f"{path}.unpacking" for member, path in members}
    limit = None if any_size else EXPANSION * os.path.getsize(archive) + SLACK
    try:
        _remove_all(temporary.values())  # left over from a killed run
        _extract(archive, temporary, limit)
        for member, path in members:
            if not os.path.exists(temporary[member]):
                raise _Rejected(f"it has no {member}")
            os.replace(temporary[member], path)
    except _TooLarge as error:
        raise UserError(
            f"{archive} unpacks to more than {limit or 0:,} bytes, which images do not; if you trust it, add --any-size"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(f"cannot unpack {archive} ({error.strerror}); free some disk space") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
            raise UserError(f"cannot unpack {archive} ({error.strerror}: {error.filename})") from error
        raise _damaged(archive, error) from error  # gzip's own errors, or names that clash or are too long
    except (_Rejected, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise _damaged(archive, error) from error
    finally:
        _remove_all(temporary.values())


def _damaged(archive: str, error: Exception) -> UserError:
    reason = textwrap.shorten(str(error), 200)
    return UserError(f"{archive} is not the expected archive ({reason}); delete it and download it again")


def _extract(archive: str, targets: Mapping[str, str], limit: int | None) -> None:
    """Write every file that is a key of `targets`, or lies in a folder that is one, to its target path."""
    from tqdm import tqdm

    title, total = f"unpacking {os.path.basename(archive)}", 0
    for member in tqdm(_members(archive, limit), title, unit=" files", leave=False):
        for requested, path in targets.items():
            if member.name != requested and not member.name.startswith(requested + "/"):
                continue
            if member.open is None:
                raise _Rejected(f"{member.name} is a link or a device")
            total += max(member.size, BLOCK)
            if limit is not None and total > limit:
                raise _TooLarge
            path += member.name[len(requested) :]
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with member.open() as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file)


def _members(archive: str, limit: int | None) -> Iterator[_Member]:
    return _zip_members(archive) if archive.endswith(".zip") else _tar_members(archive, limit)


def _zip_members(archive: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            name = _safe_name(info.filename)
            if not info.is_dir():
                link = stat.S_ISLNK(info.external_attr >> 16)
                yield _Member(name, info.file_size, None if link else partial(file.open, info))


def _tar_members(archive: str, limit: int | None) -> Iterator[_Member]:
    with open(archive, "rb") as plain, _GzipOfLimitedSize(plain, limit) as unzipped:
        compressed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        with tarfile.open(fileobj=unzipped if compressed else plain, mode="r:") as tar:
            for member in tar:
                name = _safe_name(member.name)
                if not member.isdir():
                    regular = member.isfile() and not member.issparse()
                    yield _Member(name, member.size, partial(_open_member, tar, member) if regular else None)
        while compressed and unzipped.read(CHUNK):  # its checksum is at its end
            pass


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, "regular files can be opened"
    return file


class _GzipOfLimitedSize(gzip.GzipFile):
    """Refuses to unpack more than `limit` bytes: also the parts of a tar that are skipped, or read into memory."""

    def __init__(self, file: IO[bytes], limit: int | None) -> None:
        super().__init__(fileobj=file, mode="rb")
        self.limit = limit

    def read(self, size: int | None = -1) -> bytes:
        self._check(self.tell() + (size or 0))
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check(offset)
        return super().seek(offset, whence)

    def _check(self, end: int) -> None:
        if self.limit is not None and end > self.limit + CHUNK:
            raise _TooLarge


def _safe_name(name: str) -> str:
    """The normalised name of a member; rejects absolute paths and those with ".." in them."""
    if not name:
        raise _Rejected("a file in it has no name")
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or name[:1] in ("/", "\\") or name[1:2] == ":":
        raise _Rejected(f"{name} leads out of it")
    return "/".join(parts)


def _remove_all(paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
