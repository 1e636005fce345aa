"""Downloads that resume, are checked, and appear only when they are complete."""

import contextlib
import errno
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator

from promptbias.utils.errors import UserError
from promptbias.utils.files import CHUNK, checksum

TIMEOUT = 10  # seconds without a byte after which a connection counts as broken


def download(url: str, path: str, sha256: str = "", md5: str = "") -> None:
    """Fetch `url` to `path`, which appears only when it is complete and its checksum is right.

    An interrupted download is kept in `path`.part, and the next call resumes it. A file that already exists is checked
    and not fetched again. Of several processes that want the same file at once, one fetches it. Shows a progress bar.

    Args:
        url: http, https or file address; Google Drive addresses go through gdown.
        sha256, md5: expected checksum in hexadecimal; "" if unknown.

    Raises:
        UserError: no network, an address that does not answer, a wrong checksum, no disk space or no write permission.
            The message names the address and where to put the file manually. Or something that is no file, such as a
            folder or a pipe, is in its place.
    """
    path = os.path.abspath(path)
    part = path + ".part"
    for place in (path, part):
        if os.path.exists(place) and not os.path.isfile(place):
            raise UserError(f"{place} is not a regular file; remove it, so that {url} can be saved there")
    manual_steps = f"or get the file by other means and put it at {path}"
    if _already_there(path, sha256, md5):
        return
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _locked(path):
            if _already_there(path, sha256, md5):  # another process has just downloaded it
                return
            _transfer(url, part, manual_steps)
            if not _intact(part, sha256, md5):
                os.remove(part)
                raise UserError(f"the file from {url} had a wrong checksum and was deleted; try again, {manual_steps}")
            os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {part} ({error.strerror}); free some disk space, {manual_steps}") from error


def _already_there(path: str, sha256: str, md5: str) -> bool:
    """Whether the file exists. Raises UserError if its checksum is wrong."""
    if not os.path.exists(path):
        return False
    if not _intact(path, sha256, md5):
        raise UserError(f"{path} has a wrong checksum; delete it and download it again")
    return True


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock on the download of one file; other processes wait."""
    from filelock import FileLock

    lock = FileLock(path + ".lock")
    with lock:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes it on release; filelock notices a removed lock file
                os.remove(lock.lock_file)


class _ConnectionFailed(Exception):
    """The connection failed, not the disk."""


def _transfer(url: str, part: str, manual_steps: str) -> None:
    """Complete the file `part`, reconnecting as long as each connection makes progress.

    Raises UserError for the network, OSError for the disk.
    """
    receive = _receive_from_drive if "://drive.google.com/" in url else _receive
    while True:
        before = _size(part)
        try:
            return receive(url, part)
        except _ConnectionFailed as error:
            if _size(part) <= before:
                raise UserError(
                    f"cannot fetch {url} ({error}); check the network and try again to resume, {manual_steps}"
                ) from error


def _receive(url: str, part: str) -> None:
    """One connection: append to `part` the bytes after those that it holds."""
    have = _size(part)
    headers = {"User-Agent": "promptbias", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return  # `part` is complete
        if error.code == 416:  # `part` is longer than the file, so it belongs to another one
            os.remove(part)
            return _receive(url, part)
        raise _ConnectionFailed(f"the server answers {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _ConnectionFailed(getattr(error, "reason", error)) from error
    _append(response, part, have if response.status == 206 else 0)  # any other status sends the whole file


def _append(response: http.client.HTTPResponse, part: str, have: int) -> None:
    """Write the rest of a file to `part` after its first `have` bytes."""
    from tqdm import tqdm

    length = int(response.headers.get("Content-Length", 0))
    if length > shutil.disk_usage(os.path.dirname(part)).free:
        raise OSError(errno.ENOSPC, f"no disk space for another {length / 1e6:,.0f} MB")
    bar = tqdm(
        desc=os.path.basename(part), initial=have, total=have + length or None, unit="B", unit_scale=True, leave=False
    )
    with response, bar, open(part, "ab" if have else "wb") as file:
        while chunk := _read(response):
            file.write(chunk)
            bar.update(len(chunk))
    if length and _size(part) < have + length:
        raise _ConnectionFailed(f"the connection broke off after {_size(part):,} of {have + length:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionFailed(error) from error


def _receive_from_drive(url: str, part: str) -> None:
    """Google Drive asks for confirmation before a large file; gdown answers, and resumes by itself."""
    import gdown

    try:
        gdown.download(url, part, resume=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise _ConnectionFailed(type(error).__name__) from error  # its network errors have long nested messages
    except Exception as error:  # gdown's own exceptions have different names in different versions
        raise _ConnectionFailed(" ".join(str(error).split())) from error
    if not os.path.exists(part):
        raise _ConnectionFailed("Google Drive sent no file")


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _intact(path: str, sha256: str, md5: str) -> bool:
    """Whether a file has the checksums that are known."""
    return all(checksum(path, kind) == digest for kind, digest in (("sha256", sha256), ("md5", md5)) if digest)
