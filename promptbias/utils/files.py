"""Files that are never half-written."""

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO

from promptbias.utils.errors import UserError

CHUNK = 1 << 20  # bytes read at a time
TIMEOUT = 10  # seconds without a byte after which a connection counts as broken


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


def checksum(path: str, kind: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal digits."""
    digest = hashlib.new(kind)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, path: str, sha256: str = "", md5: str = "") -> None:
    """Fetch `url` to `path`, which appears only when it is complete and its checksum is right.

    What has come so far is kept in `path`.part, and the next call goes on from there. A file that is already there is
    checked and not fetched; of processes that want it at once, one fetches it. Progress goes to stderr.

    Args:
        url: http, https or file address; those of Google Drive go through gdown.
        sha256, md5: checksum in hexadecimal; "" where none is known.

    Raises:
        UserError: no network, an address that does not answer, a wrong checksum, no room or no right to write. Says the
            address and where to put the file by hand.
    """
    path = os.path.abspath(path)
    part = path + ".part"
    by_hand = f"or get the file by other means and put it at {path}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _alone_in(os.path.dirname(path)):
            if os.path.exists(path):
                if not _intact(path, sha256, md5):
                    raise UserError(f"{path} has a wrong checksum; delete it and fetch it again")
                return
            _transfer(url, part, by_hand)
            if not _intact(part, sha256, md5):
                os.remove(part)
                raise UserError(f"what came from {url} has a wrong checksum and was deleted; try again, {by_hand}")
            os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {part} ({error.strerror}); make room there, {by_hand}") from error


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Hold other processes' downloads to the same folder back, where the system can."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class _Broken(Exception):
    """The connection failed, not the disk."""


def _transfer(url: str, part: str, by_hand: str) -> None:
    """Complete the file `part`, over as many connections as it takes while each brings something.

    Raises UserError for the network, OSError for the disk.
    """
    receive = _receive_from_drive if "://drive.google.com/" in url else _receive
    while True:
        before = _size(part)
        try:
            return receive(url, part)
        except _Broken as error:
            if _size(part) <= before:
                raise UserError(
                    f"cannot fetch {url} ({error}); check the network and try again, it goes on from there, {by_hand}"
                ) from error


def _receive(url: str, part: str) -> None:
    """One connection: append to the file `part` what comes after what it holds."""
    from tqdm import tqdm

    have = _size(part)
    headers = {"User-Agent": "promptbias", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing comes after what is there
        if error.code == 416:  # what is there is longer than the file: it is of another one
            os.remove(part)
            return _receive(url, part)
        raise _Broken(f"it answers {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _Broken(getattr(error, "reason", error)) from error

    if response.status != 206:  # a server that cannot go on in the middle sends everything
        have = 0
    length = int(response.headers.get("Content-Length", 0))
    if length > shutil.disk_usage(os.path.dirname(part)).free:
        raise OSError(errno.ENOSPC, f"{length / 1e6:,.0f} MB are to come, and there is no room for them")
    bar = tqdm(
        desc=os.path.basename(part), initial=have, total=have + length or None, unit="B", unit_scale=True, leave=False
    )
    with response, bar, open(part, "ab" if have else "wb") as file:
        while chunk := _read(response):
            file.write(chunk)
            bar.update(len(chunk))
    if length and _size(part) < have + length:
        raise _Broken(f"it broke off after {_size(part):,} of {have + length:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(error) from error


def _receive_from_drive(url: str, part: str) -> None:
    """Google Drive asks questions before it hands out a large file; gdown answers them, and resumes by itself."""
    import gdown

    try:
        gdown.download(url, part, resume=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise _Broken(type(error).__name__) from error  # the text of its network errors is many nested lines
    except Exception as error:  # its own errors go by other names in other versions
        raise _Broken(" ".join(str(error).split())) from error
    if not os.path.exists(part):
        raise _Broken("Google Drive gave no file")


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _intact(path: str, sha256: str, md5: str) -> bool:
    """Whether a file has the checksums that are known of it."""
    return all(checksum(path, kind) == digest for kind, digest in (("sha256", sha256), ("md5", md5)) if digest)
