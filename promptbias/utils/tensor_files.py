"""Files of tensors, as `torch.save` writes them: sealed where they are ours, and read without running anything.

Only tensors and plain containers are built. Both formats are parsed here, the zip archive, whose members' checksums
`torch.load` ignores, and the pickle stream of torch before 1.6; not every version of `torch.load` uses the unpickler
that it is given. A file never takes much more memory than its own size.
"""

import collections
import functools
import io
import math
import os
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write
from promptbias.utils.seals import check_zip, say_unsealed, seal_zip

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


def save_tensors(data: Any, path: str | os.PathLike) -> None:
    """`torch.save` with a seal, written beside `path` and renamed; any `torch.load` reads it.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()  # torch reports a full disk as an internal error of 32 lines
    torch.save(data, buffer)
    with atomic_write(path, "wb") as file:
        file.write(seal_zip(buffer.getvalue()))


def load_tensors(path: str) -> Any:
    """Tensors (on the CPU), containers, numbers and strings as they were saved; a `Stub` for everything else.

    Raises:
        OSError: it cannot be opened.
        UserError: it is not a file, is damaged, was not written by `torch.save`, or is larger than it looks.
    """
    sealed = check_zip(path)
    try:
        contents = read_tensors(path)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged or was not written by torch.save ({error}); train again, or give another file"
        ) from error
    if not sealed:
        say_unsealed(path)
    return contents


def read_tensors(path: str) -> Any:
    """`load_tensors` of a file that need not be ours, and so has no seal.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged, was not written by `torch.save`, or is larger than it looks; says which in one line.
    """
    with open(path, "rb") as file:
        try:
            return _read_archive(file) if zipfile.is_zipfile(file) else _read_stream(file)
        except MemoryError:
            raise
        except Exception as error:  # whatever a cut or overwritten file makes the parsers stumble over
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


class Stub:
    """Takes the place of an object whose class must not be instantiated; keeps its plain attributes.

    Attributes:
        stands_for: module and name of that class.
    """

    stands_for = ""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def _ignore(self, *args: Any) -> None:
        pass

    append = extend = add = update = __setitem__ = _ignore  # what unpickling calls on subclasses of containers


def _tensor(room: int, flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *more: Any) -> Tensor:
    """A view of a storage; torch rejects one that exceeds it.

    Args:
        room: elements that it may have, should it repeat some.
        more: requires_grad, backward hooks and, where it is conjugate or negative, metadata.
    """
    if math.prod(size) > max(room, flat.numel()):
        raise ValueError(f"a tensor of shape {tuple(size)} in a file of {room} bytes")
    if any(more[2:]):
        raise ValueError("a tensor that is marked as conjugate or negative")
    return flat.as_strided(size, stride, offset)


def _parameter(data: Tensor, requires_grad: bool, *_: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, requires_grad)


def _without_attributes(build: Callable[..., Any], _kind: Any, arguments: tuple, _attributes: Any) -> Any:
    return build(*arguments)


def _no_storage(*_: Any) -> Tensor:
    raise ValueError("a tensor outside the main pickle")


class _PlainUnpickler(pickle.Unpickler):
    """Resolves the names in a pickle to the few that are allowed, and every other one to a Stub.

    Args:
        room: size of the file in bytes, which bounds what is built.
        storage: gives the flat tensor of (dtype, key, element count).
    """

    _CONTAINERS = {
        "builtins.dict": dict,
        "builtins.list": list,
        "builtins.set": set,
        "collections.Counter": collections.Counter,
        "collections.OrderedDict": collections.OrderedDict,
        "collections.defaultdict": collections.defaultdict,
        "torch.Size": torch.Size,
    }
    _FUNCTIONS: dict[str, Callable[..., Any]] = {
        "torch._tensor._rebuild_from_type_v2": _without_attributes,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
    }
    _ALLOWED = {
        "torch.device": torch.device,
        **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
        **{str(dtype): dtype for dtype in _STORAGES.values()},
    }

    def __init__(self, file: BinaryIO, room: int, storage: Callable[[Any, str, int], Tensor] = _no_storage):
        super().__init__(file)
        self.file, self.room, self.storage = file, room, storage
        self.copied = 0

    def load(self) -> Any:
        start = self.file.tell()
        for op, index, _ in pickletools.genops(self.file):  # the memo would be made as large as its largest index
            if op.name in ("PUT", "LONG_BINPUT") and (index or 0) > self.room:
                raise ValueError("a pickle whose memo is larger than the file")
        self.file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        # A pickle may set attributes of what it is given, so functions and classes are given in wrappers of its own.
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full in self._FUNCTIONS:
            return functools.partial(self._FUNCTIONS[full])
        if full in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return functools.partial(_tensor, self.room)
        if full in self._CONTAINERS:
            return functools.partial(self._container, self._CONTAINERS[full])
        return self._ALLOWED.get(full) or type("Stub", (Stub,), {"stands_for": full})

    def _container(self, kind: type, *content: Any) -> Any:
        """A container, as long as the pickle does not copy one again and again."""
        self.copied += sum(len(part) for part in content if hasattr(part, "__len__"))
        if self.copied > self.room:
            raise ValueError("a pickle whose containers are larger than the file")
        return kind(*content)

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, _, count, *view = pid
        flat = self.storage(dtype, key, count)
        if view and view[0]:  # only in streams
            _, start, length = view[0]
            return flat[start : start + length]
        return flat


def _read_archive(file: BinaryIO) -> Any:
    room = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError("a TorchScript archive, which holds code")
        if sum(info.file_size for info in archive.infolist()) > room:
            raise ValueError("it unpacks to more than its own size, and torch.save does not compress")
        folder = next(name for name in names if name.endswith("/data.pkl"))[: -len("data.pkl")]
        order = f"{folder}byteorder"
        if order in names and archive.read(order) != sys.byteorder.encode():
            raise ValueError("written on a machine of another byte order")

        @functools.cache
        def storage(dtype: Any, key: str, count: int) -> Tensor:
            return _flat(archive.read(f"{folder}data/{key}"), dtype, count)  # which checks its CRC

        return _PlainUnpickler(io.BytesIO(archive.read(f"{folder}data.pkl")), room, storage).load()


def _flat(data: bytes, dtype: Any, count: int) -> Tensor:
    """The storage of `count` elements in `data`; its bytes where their type is none of a plain tensor's."""
    if not isinstance(dtype, torch.dtype):  # what is built of it becomes a Stub
        dtype, count = torch.uint8, len(data)
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    if flat.numel() != count:
        raise ValueError("the data of a tensor is incomplete")
    return flat


def _read_stream(file: BinaryIO) -> Any:
    file.seek(0)
    content = io.BytesIO(file.read())
    room = content.getbuffer().nbytes
    storages: dict[str, Tensor] = {}
    empty = 0  # bytes of the storages, which are filled after the pickle has been read

    def storage(dtype: Any, key: str, count: int) -> Tensor:
        nonlocal empty
        if key not in storages:
            empty += count * torch.empty(0, dtype=dtype).element_size()
            if empty > room:
                raise ValueError("tensors that are larger than the file")
            storages[key] = torch.zeros(count, dtype=dtype)
        return storages[key]

    magic, _version, _system = (_PlainUnpickler(content, room).load() for _ in range(3))
    if magic != _STREAM_MAGIC:
        raise ValueError("its beginning is that of another kind of file")
    data = _PlainUnpickler(content, room, storage).load()
    for key in _PlainUnpickler(content, room).load():
        flat = storages[key]
        content.read(8)  # the element count again
        flat.copy_(_flat(content.read(flat.numel() * flat.element_size()), flat.dtype, flat.numel()))
    return data
