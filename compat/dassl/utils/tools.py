"""Small helpers around files, images and the machine."""

import json
import os
import platform
import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
import torch

from promptbias.model.images import ImageError, open_file, read_image
from promptbias.utils.errors import UserError, nearest
from promptbias.utils.files import atomic_write, regular_file

__all__ = [
    "ConfigError",
    "ImageError",
    "mkdir_if_missing",
    "check_isfile",
    "read_json",
    "write_json",
    "set_random_seed",
    "read_image",
    "collect_env_info",
    "listdir_nohidden",
    "check_availability",
    "tolist_if_not",
]


class ConfigError(UserError, ValueError):
    """An invalid configuration or dataset. The message names the key or the file, and the values that are allowed."""


def mkdir_if_missing(dirname: str) -> None:
    """Create a folder and its parents; "" is the current folder."""
    os.makedirs(dirname or ".", exist_ok=True)


def check_isfile(fpath: str) -> bool:
    """Whether `fpath` is a file; warns if not."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f'no file at "{fpath}"')
    return found


def read_json(fpath: str) -> Any:
    with open(regular_file(fpath), encoding="utf-8") as file:
        return json.load(file)


def write_json(obj: Any, fpath: str) -> None:
    """Write `obj` as indented JSON; creates the folder if necessary."""
    with atomic_write(fpath) as file:
        json.dump(obj, file, indent=4)


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def image_bytes(path: str) -> int:
    """Memory that `read_image` needs, from the file's header alone; 0 for a file that it rejects."""
    try:
        with open_file(path) as image:
            return 4 * image.width * image.height  # Pillow stores an RGB pixel in four bytes
    except Exception:  # `read_image` reports it when the image is needed
        return 0


def collect_env_info() -> str:
    """Versions and hardware, one per line; runs no subprocess."""
    import torchvision

    cpu = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "\n".join(
        f"{name}: {value}"
        for name, value in {
            "PyTorch version": torch.__version__,
            "CUDA used to build PyTorch": torch.version.cuda,
            "Is CUDA available": torch.cuda.is_available(),
            "GPU models": ", ".join(devices) or None,
            "CPU": cpu,
            "OS": platform.platform(),
            "Python version": platform.python_version(),
            "numpy": np.__version__,
            "torchvision": torchvision.__version__,
            "Pillow": PIL.__version__,
        }.items()
    )


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """Names in a folder that do not start with a dot, in the file system's order or sorted."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def check_availability(requested: str, available: Sequence[str]) -> None:
    """Raises ConfigError, with the closest match, if `requested` is not among `available`."""
    if requested not in available:
        raise ConfigError(f'"{requested}" is not available; {nearest(requested, available)}')


def tolist_if_not(x: Any) -> list:
    return x if isinstance(x, list) else [x]
