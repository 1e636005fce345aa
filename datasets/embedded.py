"""What the embedded datasets share: their image files are written once, at first use, and need no network.

Their pixels are computed with additions, multiplications, divisions and square roots of float64 alone, which IEEE 754
rounds in the same way everywhere, and drawn from numpy's RandomState, whose stream is frozen: the same bits on every
machine.
"""

import os
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from promptbias.utils.errors import UserError
from promptbias.utils.files import partial_folder

from .image_files import ImageFiles
from .reader import FewShotDataset
from .splits import Item


class EmbeddedDataset(FewShotDataset):
    """A dataset that writes its own files.

    A subclass names its folders and classes and implements `draw` and `read_data`.

    Attributes:
        what: the images, for messages: "1,797 handwritten digits"
        count: the number of files that `draw` yields
        class_names: in the order of their labels; also the names of the class folders
    """

    what = ""
    count = 0
    class_names: tuple[str, ...] = ()

    @staticmethod
    def draw() -> Iterator[tuple[str, np.ndarray]]:
        """The path in the dataset's folder and the pixels of each file, uint8 (H, W) or (H, W, 3)."""
        raise NotImplementedError

    def find_images(self) -> None:
        if not os.path.isdir(self.image_dir):
            self.write(self.dataset_dir)
        super().find_images()

    @classmethod
    def write(cls, folder: str) -> None:
        """Write the files under `folder`.

        Each folder in it appears completely or not at all, "images" last; if several processes write at once, one wins
        and all use what it wrote, which is the same.

        Raises:
            UserError: the folder cannot be written to.
        """
        print(f"Writing {cls.what} to {folder}")
        try:
            with partial_folder(os.path.join(folder, "images")) as temporary:
                _write_images(temporary, tqdm(cls.draw(), total=cls.count, unit="file", disable=None))
                for part in sorted(os.listdir(temporary), key=lambda part: part == "images"):
                    target = os.path.join(folder, part)
                    if not os.path.isdir(target):
                        os.rename(os.path.join(temporary, part), target)
        except OSError as error:
            if not os.path.isdir(os.path.join(folder, "images")):  # otherwise another process has written it first
                raise UserError(
                    f"cannot write the images to {folder} ({error.strerror}); choose another folder with --root (or "
                    "DATA)"
                ) from error

    def class_items(self, folder: str) -> list[list[Item]]:
        """The images in `folder`/<class name>/, of each class."""
        files, classes = ImageFiles(), []
        for label, name in enumerate(self.class_names):
            path = os.path.join(folder, name)
            classes.append([Item(os.path.join(path, image), label, name) for image in files.names(path)])
        files.say_left_out(folder)
        return classes


def _write_images(folder: str, files: Iterator[tuple[str, np.ndarray]]) -> None:
    """Write PNG files; folders are made as needed."""
    from PIL import Image

    for path, pixels in files:
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Image.fromarray(pixels).save(target)
