"""Reads what `torch.save` wrote without building anything but tensors and plain containers.

Both formats are parsed here, the zip archive and the pickle stream of torch before 1.6, because not every version of
`torch.load` uses the unpickler that it is given.
"""

import collections
import io
import pickle
import struct
import zipfile
from typing import Any, BinaryIO

import torch

__all__ = ["Stub", "read_plain"]

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


def _tensor(flat: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> torch.Tensor:
    """A view of a storage; torch rejects one that exceeds it."""
    return flat.as_strided(size, stride, offset)


def _parameter(data: torch.Tensor, requires_grad: bool, *_: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, requires_grad)


class _PlainUnpickler(pickle.Unpickler):
    """Resolves the names in a pickle to the few that are allowed, and every other one to a Stub."""

    _ALLOWED = {
        "builtins.dict": dict,
        "builtins.list": list,
        "builtins.set": set,
        "collections.OrderedDict": collections.OrderedDict,
        "collections.defaultdict": collections.defaultdict,
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
        **{str(dtype): dtype for dtype in _STORAGES.values()},
    }

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, torch.Tensor] = {}  # flat tensors, filled after the pickle has been read

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        return self._ALLOWED.get(full) or type("Stub", (Stub,), {"stands_for": full})

    def persistent_load(self, pid: tuple) -> torch.Tensor:
        _, dtype, key, _, count, *view = pid
        if key not in self.storages:
            self.storages[key] = torch.zeros(count, dtype=dtype)
        if view and view[0]:  # only in streams
            _, start, length = view[0]
            return self.storages[key][start : start + length]
        return self.storages[key]


def _fill(flat: torch.Tensor, data: bytes) -> None:
    if len(data) != flat.numel() * flat.element_size():
        raise ValueError("the data of a tensor is incomplete")
    if data:
        flat.copy_(torch.frombuffer(bytearray(data), dtype=flat.dtype))


def _read_archive(archive: zipfile.ZipFile) -> Any:
    folder = next(name for name in archive.namelist() if name.endswith("/data.pkl"))[: -len("data.pkl")]
    unpickler = _PlainUnpickler(io.BytesIO(archive.read(f"{folder}data.pkl")))
    data = unpickler.load()
    for key, flat in unpickler.storages.items():
        _fill(flat, archive.read(f"{folder}data/{key}"))
    return data


def _read_stream(file: BinaryIO) -> Any:
    magic, _version, _system = (_PlainUnpickler(file).load() for _ in range(3))
    if magic != _STREAM_MAGIC:
        raise ValueError("not written by torch.save")
    unpickler = _PlainUnpickler(file)
    data = unpickler.load()
    for key in _PlainUnpickler(file).load():
        flat = unpickler.storages[key]
        struct.unpack("<q", file.read(8))  # the element count again
        _fill(flat, file.read(flat.numel() * flat.element_size()))
    return data


def read_plain(fpath: str) -> Any:
    """Tensors (on the CPU), containers, numbers and strings as they were saved; a `Stub` for everything else.

    Raises:
        Exception: of any kind, if the file is damaged or was not written by `torch.save`.
    """
    if zipfile.is_zipfile(fpath):
        with zipfile.ZipFile(fpath) as archive:
            return _read_archive(archive)
    with open(fpath, "rb") as file:
        return _read_stream(file)
