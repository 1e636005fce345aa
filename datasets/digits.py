"""Digits: scikit-learn's 1,797 handwritten digits of 8x8 pixels, written once as image files. Needs no network."""

import os
import shutil
import tempfile

from promptbias.utils.errors import UserError

from .image_files import ImageFiles
from .reader import FewShotDataset, register
from .splits import Item, Split, divide_each

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@register
class Digits(FewShotDataset):
    dataset_dir = "digits"
    split_file = "split_zhou_Digits.json"

    def find_images(self) -> None:
        if not os.path.isdir(self.image_dir):
            write_digits(self.dataset_dir)
        super().find_images()

    def read_data(self) -> Split:
        files, classes = ImageFiles(), []
        for label, name in enumerate(CLASS_NAMES):
            folder = os.path.join(self.image_dir, name)
            classes.append([Item(os.path.join(folder, image), label, name) for image in files.names(folder)])
        files.say_left_out(self.image_dir)
        return divide_each(classes)


def write_digits(folder: str) -> None:
    """Write `folder`/images/<class>/<number>.png, grey values 0 (paper) to 255 (ink).

    The folder appears completely or not at all; if several processes write it at once, one wins and all use it.

    Raises:
        UserError: scikit-learn is not installed, or the folder cannot be written to.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the dataset Digits comes with scikit-learn; run `pip install scikit-learn`") from error
    from PIL import Image

    digits = load_digits()
    print(f"Writing {len(digits.images):,} handwritten digits to {folder}")
    try:
        os.makedirs(folder, exist_ok=True)
        temporary = tempfile.mkdtemp(dir=folder, prefix=".images.")
        try:
            for name in CLASS_NAMES:
                os.mkdir(os.path.join(temporary, name))
            for number, (image, label) in enumerate(zip(digits.images, digits.target)):
                path = os.path.join(temporary, CLASS_NAMES[label], f"{number:04}.png")
                Image.fromarray((image * (255 / 16)).round().astype("uint8")).save(path)
            os.chmod(temporary, 0o755)  # mkdtemp makes private folders
            os.rename(temporary, os.path.join(folder, "images"))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if not os.path.isdir(os.path.join(folder, "images")):  # otherwise another process has written it first
            raise UserError(
                f"cannot write the digits to {folder} ({error.strerror}); choose another folder with --root (or DATA)"
            ) from error
