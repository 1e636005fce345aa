"""Where the foreground is: segmentations and boxes of the datasets that have them, in their published layout.

ClutteredDigits  masks/<class>/<number>.png             255: the digit
OxfordPets       annotations/trimaps/<image>.png        1: the animal, 2: background, 3: the border between them
OxfordFlowers    segmim/segmim_<number>.jpg             the flower on blue (0, 0, 254)
FGVCAircraft     images_box.txt                         <image> <left> <top> <right> <bottom>, in pixels from 1
StanfordCars     devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat: bbox_x1, bbox_y1, bbox_x2, bbox_y2
"""

import os
from collections.abc import Callable

import numpy as np

from promptbias.utils.errors import UserError

from .fetches import PREPARE
from .sources import source_of
from .splits import read_mat, text_lines

FOREGROUND, BACKGROUND, BORDER = 1, 2, 3  # in the trimaps of OxfordPets
BLUE = (0, 0, 254)  # behind the flowers
TOLERANCE = 64  # of JPEG, around edges

Mask = (
    np.ndarray
)  # (H, W) of the image file, float, 1 in the foreground, 0 in the background, 1/2 on an uncertain border
Boxes = dict[
    str, tuple[float, float, float, float]
]  # name of the image -> left, top, right, bottom; from 0, right open


def mask_reader(dataset: str, folder: str) -> Callable[[str], Mask]:
    """A function from the path of an image to its foreground.

    Args:
        dataset: DATASET.NAME.
        folder: of the dataset, under DATASET.ROOT.

    Raises:
        UserError: the dataset has none, or its file of boxes is missing. The function raises it for a mask that is
            missing or of another size than its image.
    """
    segmentations = {"ClutteredDigits": _digit, "OxfordPets": _pet, "OxfordFlowers": _flower}
    boxes = {"FGVCAircraft": _aircraft_boxes, "StanfordCars": _car_boxes}
    if dataset in segmentations:
        return lambda path: _of_image_size(segmentations[dataset](folder, path), path)
    if dataset not in boxes:
        known = ", ".join([*segmentations, *boxes])
        raise UserError(f"{dataset} has no masks of the foreground; these have: {known}")
    try:
        found = boxes[dataset](folder)
    except FileNotFoundError as error:
        raise _missing(dataset, error.filename) from error
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"the boxes of {dataset} in {folder} are not as published ({error}); fetch them again"
        ) from error
    return lambda path: _box_mask(found, path, dataset)


def _digit(folder: str, image: str) -> Mask:
    path = os.path.join(folder, "masks", os.path.relpath(image, os.path.join(folder, "images")))
    mask = _pixels(path, "L", "ClutteredDigits") / 255
    if not mask.any():
        raise UserError(f"the mask {path} shows no digit; remove the dataset's folder to have it written again")
    return mask


def _pet(folder: str, image: str) -> Mask:
    name = os.path.splitext(os.path.basename(image))[0]
    trimap = _pixels(os.path.join(folder, "annotations", "trimaps", name + ".png"), "L", "OxfordPets")
    other = np.setdiff1d(trimap, (FOREGROUND, BACKGROUND, BORDER))
    if len(other):
        raise UserError(f"the mask of {image} has pixels of {other[0]:g}, but trimaps have 1, 2 and 3; fetch it again")
    return (trimap == FOREGROUND) + 0.5 * (trimap == BORDER)


def _flower(folder: str, image: str) -> Mask:
    name = os.path.basename(image).replace("image_", "segmim_")
    pixels = _pixels(os.path.join(folder, "segmim", name), "RGB", "OxfordFlowers")
    return (np.abs(pixels - np.array(BLUE, float)).max(-1) > TOLERANCE).astype(float)


def _aircraft_boxes(folder: str) -> Boxes:
    boxes: Boxes = {}
    for line in text_lines(os.path.join(folder, "images_box.txt")):
        image, *numbers = line.split()
        left, top, right, bottom = map(int, numbers)
        boxes[image + ".jpg"] = left - 1, top - 1, right, bottom
    return boxes


def _car_boxes(folder: str) -> Boxes:
    """Images of both folders by "<folder>/<name>", since the names are the same in both."""
    boxes: Boxes = {}
    annotations = {"cars_train": "devkit/cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}
    for part, file in annotations.items():
        for row in read_mat(os.path.join(folder, file))["annotations"][0]:
            left, top, right, bottom = (int(row[f"bbox_{end}"][0, 0]) for end in ("x1", "y1", "x2", "y2"))
            boxes[f"{part}/{row['fname'][0]}"] = left - 1, top - 1, right, bottom
    return boxes


def _box_mask(boxes: Boxes, image: str, dataset: str) -> Mask:
    """The mask of an image from its box."""
    names = [os.path.basename(image), "/".join(image.split(os.sep)[-2:])]
    box = next((boxes[name] for name in names if name in boxes), None)
    if box is None:
        raise UserError(f"the boxes of {dataset} have none for {image}")
    width, height = _size(image)
    x, y = np.arange(width), np.arange(height)[:, None]
    mask = ((x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])).astype(float)
    if not mask.any():
        raise UserError(
            f"the box of {image}, {box}, holds none of its {width} x {height} pixels; fetch the boxes again"
        )
    return mask


def _of_image_size(mask: Mask, image: str) -> Mask:
    width, height = _size(image)
    if mask.shape != (height, width):
        raise UserError(f"the mask of {image} has {mask.shape[1]} x {mask.shape[0]} pixels, not {width} x {height}")
    return mask


def _size(image: str) -> tuple[int, int]:
    from promptbias.model.images import open_file

    with open_file(image) as opened:
        return opened.size


def _pixels(path: str, mode: str, dataset: str) -> np.ndarray:
    """The pixels of a mask file, float64 (H, W) or (H, W, 3)."""
    from promptbias.model.images import open_file

    try:
        with open_file(path) as opened:
            # A trimap is a palette image whose indices count, not its colours.
            return np.asarray(opened if opened.mode == "P" and mode == "L" else opened.convert(mode), float)
    except FileNotFoundError as error:
        raise _missing(dataset, path) from error
    except UserError:
        raise
    except Exception as error:  # each of Pillow's decoders fails in its own way
        raise UserError(f"the mask {path} cannot be read ({error}); fetch it again") from error


def _missing(dataset: str, path: str) -> UserError:
    """The error for a file of masks that does not exist."""
    name, source = source_of(dataset) or ("", None)
    if not source:
        return UserError(f"{path} does not exist")
    root = path[: path.rindex(os.sep + source.folder + os.sep)]
    return UserError(f"{path} does not exist; run `{PREPARE} {name} --masks --root {root}`")
