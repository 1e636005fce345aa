"""Images as people have them -> what CLIP sees. All of the project reads image files here."""

import mmap
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptbias.utils.errors import UserError
from promptbias.utils.files import regular_file

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green and blue, as OpenAI's CLIP normalises them
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Image = Any  # a PIL image, or the path of an image file

BACKGROUND = "white"  # that transparent images are put on, unless INPUT.BACKGROUND says otherwise
MAX_ASPECT = 1000  # longer side : shorter side; as the shorter one is resized to 224, the longer one grows to 224,000
COMMON_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM")  # those that Pillow knows without loading all of its plugins
# Pillow hands EPS to Ghostscript, which runs the program in the file, and has no pixels of the others.
FORMATS_NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
ORIENTATION = 0x0112  # the EXIF tag
TURNS = (0, 3, 1, 5, 4, 6, 2)  # for its values 2 to 8: FLIP_LEFT_RIGHT, ROTATE_180, ... of Pillow's Transpose
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")  # Pillow's names of modes
WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")

# What a picture does not show of its file, each said once; see `_say`.
NOTES = {
    "rotated": "{} is to be turned according to its EXIF tag; images are read as stored, as the CoOp family does "
    "(INPUT.EXIF True turns them)",
    "transparent": "{} is transparent in part, and is put on {} (INPUT.BACKGROUND)",
    "invisible": "{} is of one colour when put on {}: set INPUT.BACKGROUND to a colour on which it can be seen",
    "deep": "{} has 16 bits per channel, of which the upper 8 are used",
    "animated": "{} has several frames or pages, of which the first is used",
}
_said = mmap.mmap(-1, mmap.PAGESIZE)  # a byte for each of NOTES, in memory that the forked workers of a loader share


class ImageError(UserError, OSError):
    """An image file that cannot be read."""

    def __init__(self, message: str):
        # a DataLoader worker passes an error on as the text of its traceback, which ends with our message
        super().__init__(message.rpartition("ImageError: ")[2].strip())


class Preprocessing(NamedTuple):
    """How a CLIP wants its images: mean and standard deviation of red, green and blue, and how they are resized."""

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: str = "bicubic"


OPENAIS = Preprocessing()


def default_preprocess(size: int, how: Preprocessing = OPENAIS) -> Callable[[Any], Tensor]:
    """CLIP's own: the shorter side to `size`, centre crop, normalised; (3, size, size)."""

    def preprocess(image: Any) -> Tensor:
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

        resize = Resize(size, InterpolationMode(how.interpolation))
        steps = [resize, CenterCrop(size), ToTensor(), Normalize(how.mean, how.std)]
        return Compose(steps)(image)

    return preprocess


def read_formats() -> frozenset[str]:
    """Names of the formats that are read here: all that Pillow decodes by itself, and HEIF if pillow-heif is there."""
    from PIL import Image as pillow

    pillow.init()
    if "HEIF" not in pillow.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            pass
        else:
            register_heif_opener()
    return frozenset(pillow.OPEN) - FORMATS_NOT_READ


def image_endings() -> frozenset[str]:
    """The endings of files in these formats, in lower case: ".jpg", ..."""
    from PIL import Image as pillow

    formats = read_formats()
    return frozenset(ending for ending, name in pillow.registered_extensions().items() if name in formats)


def open_file(path: str) -> Any:
    """A PIL image of which only the header has been read, to be closed by the caller.

    Raises:
        UserError: no regular file.
        Exception: whatever Pillow's plugins raise for a file that they do not understand.
    """
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    regular_file(path)
    try:
        return pillow.open(path, formats=COMMON_FORMATS)
    except UnidentifiedImageError:
        return pillow.open(path, formats=sorted(read_formats()))


def read_image(path: str | os.PathLike, exif: bool = False, background: str = BACKGROUND) -> Any:
    """The picture in an image file, as a PIL image in RGB: `to_rgb` of it.

    Raises:
        ImageError: no such file, or none that holds an image that can be shown; names the file.
    """
    from PIL import UnidentifiedImageError

    path = os.fspath(path)
    try:
        with open_file(path) as image:
            return to_rgb(image, path, exif, background)
    except Exception as error:  # each of Pillow's decoders fails in its own way
        said = getattr(error, "strerror", None) or str(error).removeprefix(path) or type(error).__name__
        reason = textwrap.shorten(said, 200)
        if isinstance(error, UnidentifiedImageError):
            heif = "; `pip install pillow-heif` reads .heic" if path.lower().endswith((".heic", ".heif")) else ""
            reason = f"it has no format that Pillow reads here{heif}"
        raise ImageError(
            f"{path} cannot be read as an image ({reason}); replace the file, or remove it from the dataset"
        ) from error


def open_image(image: Image, exif: bool = False, background: str = BACKGROUND) -> Any:
    """A PIL image in RGB, from one or from a file.

    Raises:
        UserError: the file cannot be opened, or is not an image.
    """
    from PIL import Image as pillow

    if isinstance(image, (str, os.PathLike)):
        return read_image(image, exif, background)
    if not isinstance(image, pillow.Image):
        raise UserError(f"images must be PIL images, paths or a tensor (B, 3, S, S), not {type(image).__name__}")
    try:
        return to_rgb(image, "an image", exif, background)
    except ValueError as error:
        raise UserError(f"an image of mode {image.mode} cannot be used ({error})") from error


def to_rgb(image: Any, name: str, exif: bool = False, background: str = BACKGROUND) -> Any:
    """A PIL image in RGB: its first frame, on a background where it is transparent, 16 bits per channel cut to 8.

    Args:
        name: of the image, for what is said of it.
        exif: whether to turn it as its EXIF orientation says.
        background: a colour by any name that Pillow knows.

    Raises:
        ValueError: a picture without pixels, too narrow to be resized, or of 32 bits per channel.
    """
    if not min(image.size) or max(image.size) > MAX_ASPECT * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels cannot be resized to what CLIP sees")
    if image.format not in ("JPEG", "MPO") and getattr(image, "is_animated", False):  # a phone's MPO holds a thumbnail
        _say("animated", name)
    image.load()
    image = _turned(image, name, exif)
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        _say("deep", name)
        return _upper_bits(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("the range of its 32 bits per channel is unknown: save it with 8 or 16")
    if image.mode in WITH_ALPHA or "transparency" in image.info or getattr(image.palette, "mode", "") == "RGBA":
        return _on_background(image, name, background)
    return image.convert("RGB")


def _turned(image: Any, name: str, exif: bool) -> Any:
    """The image as its EXIF orientation says, if `exif`; otherwise as it is, and it is said."""
    if not {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}.intersection(image.info):
        return image
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata never kept a picture from being shown
        return image
    if orientation not in range(2, 9):
        return image
    if not exif:
        _say("rotated", name)
        return image
    return image.transpose(TURNS[orientation - 2])


def _upper_bits(image: Any) -> Any:
    """Grey values of 16 bits as 8, as Pillow itself does with colours of 16 bits."""
    import numpy as np
    from PIL import Image as pillow

    return pillow.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _on_background(image: Any, name: str, background: str) -> Any:
    from PIL import Image as pillow

    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    flat = pillow.new("RGB", image.size, background)
    flat.paste(image, mask=alpha)
    _say("transparent", name, background)
    if flat.getcolors(1):
        _say("invisible", name, background)
    return flat


def _say(note: str, *words: str) -> None:
    """Print one of NOTES on stderr, unless it was printed already, by this process or a forked worker."""
    index = list(NOTES).index(note)
    if not _said[index]:
        _said[index] = 1
        print(NOTES[note].format(*words), file=sys.stderr)


def to_batch(
    images: Image | Sequence[Image] | Tensor,
    preprocess: Callable[[Any], Tensor],
    size: int,
    open_one: Callable[[Image], Any] = open_image,
) -> Tensor:
    """One or more images as (B, 3, size, size).

    Raises:
        UserError: no image, a file that is not an image, a tensor of another shape.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise UserError(f"a tensor of images must be (B, 3, {size}, {size}), not {tuple(images.shape)}")
        return images
    several = isinstance(images, Sequence) and not isinstance(images, str)
    opened = [open_one(image) for image in (images if several else [images])]
    if not opened:
        raise UserError("there is no image to predict; give at least one")
    return torch.stack([preprocess(image) for image in opened])
