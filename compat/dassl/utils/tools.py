"""Small helpers around files, images and the machine."""

import difflib
import json
import os
import platform
import random
import warnings
from typing import Any
from collections.abc import Sequence

import numpy as np
import PIL
import torch
from PIL import Image

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


class ConfigError(ValueError):
    """A configuration, or data, that no run can come of. The message names the key or the place, and what it may be."""


class ImageError(OSError):
    """An image file that cannot be read."""

    def __init__(self, message: str):
        # a loader's worker process hands an error on as the text of its traceback; our sentence stands at its end
        super().__init__(message.rpartition("ImageError: ")[2].strip())


DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's names for pixels of 16 or 32 bits


def mkdir_if_missing(dirname: str) -> None:
    """Make the folder and those above it; "" is the current one."""
    os.makedirs(dirname or ".", exist_ok=True)


def check_isfile(fpath: str) -> bool:
    """Whether `fpath` is a file; warns if not."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f'no file at "{fpath}"')
    return found


def read_json(fpath: str) -> Any:
    with open(fpath, encoding="utf-8") as file:
        return json.load(file)


def write_json(obj: Any, fpath: str) -> None:
    """Write `obj` indented; makes the folder if need be."""
    mkdir_if_missing(os.path.dirname(fpath))
    with open(fpath, "w", encoding="utf-8") as file:
        json.dump(obj, file, indent=4)


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def read_image(path: str) -> Image.Image:
    """The image in RGB.

    Raises:
        ImageError: missing, truncated or no image, or deeper than 8 bits, which Pillow would cut off; names the file.
    """
    try:
        with Image.open(path) as image:
            if image.mode in DEEP_MODES:
                raise ValueError(f"mode {image.mode}, more than 8 bits per channel; save it with 8")
            return image.convert("RGB")
    except Exception as error:  # each of Pillow's decoders fails in its own way
        what = "there is no image" if not os.path.exists(path) else f"not a readable image ({error})"
        raise ImageError(f"{path}: {what}; replace the file or take it out of the dataset") from error


def image_bytes(path: str) -> int:
    """How much memory `read_image` takes, from the header of the file alone; 0 for what it refuses."""
    try:
        with Image.open(path) as image:
            return 4 * image.width * image.height  # Pillow gives a pixel of RGB four bytes
    except Exception:  # as in `read_image`, whose error comes when the image is asked for
        return 0


def collect_env_info() -> str:
    """Versions and hardware, one per line; starts no other program."""
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
    """Raises ConfigError, with the nearest match, if `requested` is none of `available`."""
    if requested in available:
        return
    folded = {name.lower(): name for name in available}
    near = difflib.get_close_matches(requested.lower(), folded, n=1)
    hint = f'did you mean "{folded[near[0]]}"?' if near else f"known: {', '.join(sorted(available)) or 'none'}"
    raise ConfigError(f'"{requested}" is not available; {hint}')


def tolist_if_not(x: Any) -> list:
    return x if isinstance(x, list) else [x]
