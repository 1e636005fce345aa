"""`promptbias predict RUN IMAGE ...`: classes and probabilities of images, by the model of a finished run.

Prints a line for each image, in the order given, as soon as its batch is done:

  default  three.png: three 98.1 %, eight 1.2 %
  --csv    a header, then one row for each class: image,rank,class,probability
  --json   one JSON object a line: {"image": "three.png", "classes": [{"name": "three", "probability": 0.981}]}

An image that cannot be read is skipped, with a line on stderr, and the exit status is 1 at the end.
"""

import argparse
import contextlib
import csv
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from promptbias.utils.errors import UserError

Top = list[tuple[str, float]]  # of an image: (class, probability), the most probable first
STDIN = "-"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="promptbias predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files; folders, for all images in them and below; - for paths from stdin, one a line",
    )
    parser.add_argument("--top", type=int, default=1, metavar="K", help="classes for each image (default: 1)")
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="print JSON lines")
    formats.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="images at a time (default: 32; 1: print each at once)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16, amp or auto (default: fp32)")
    args = parser.parse_args(argv)
    for flag, value in (("--top", args.top), ("--batch-size", args.batch_size)):
        if value < 1:
            parser.error(f"{flag} is {value}, but must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Predict images batch by batch, and print as it goes.

    Returns:
        1 if any image could not be read, else 0.
    """
    args = parse_args(argv)
    from tqdm import tqdm

    from promptbias.api import load

    with contextlib.redirect_stdout(sys.stderr):  # stdout is for predictions
        model = load(args.run, args.precision, args.device)
    write = writer(args)
    reader = ImageReader(model.open_image)
    # How many there are is known, unless they come from stdin.
    paths = all_paths(args.images) if STDIN in args.images else list(all_paths(args.images))
    with tqdm(total=len(paths) if isinstance(paths, list) else None, unit="image", disable=None, leave=False) as bar:
        images = reader.opened(paths)
        while batch := list(itertools.islice(images, args.batch_size)):
            names, opened = zip(*batch)
            found = model.predict(opened, args.batch_size).top(args.top)
            with tqdm.external_write_mode(sys.stdout):  # the bar makes room for what is printed
                for name, top in zip(names, found):
                    write(name, top)
                sys.stdout.flush()
            bar.update(reader.seen - bar.n)
    return 1 if reader.skipped else 0


class ImageReader:
    """Opens images, and skips with a line on stderr those that cannot be read.

    Args:
        open_one: path -> PIL image.

    Attributes:
        seen, skipped: how many images were asked for, and could not be read.
    """

    def __init__(self, open_one: Callable[[str], Any]) -> None:
        self.open_one = open_one
        self.seen = self.skipped = 0

    def opened(self, paths: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """(path, PIL image), one after another."""
        from tqdm import tqdm

        for path in paths:
            self.seen += 1
            try:
                image = self.open_one(path)
            except UserError as error:
                self.skipped += 1
                tqdm.write(f"skipped: {error}", file=sys.stderr)  # a progress bar makes room for it
                continue
            yield path, image


def all_paths(given: Iterable[str]) -> Iterator[str]:
    """Paths of images, as they come: those given, those in given folders, and those that stdin names.

    Raises:
        UserError: a folder without images.
    """
    from promptbias.datasets.image_files import ImageFiles

    for path in given:
        if path == STDIN:
            yield from all_paths(line.rstrip("\n") for line in sys.stdin if line.strip())
        elif os.path.isdir(path):
            (found,) = ImageFiles().below([path])
            if not found:
                raise UserError(f"{path} has no images in it or below; name another folder, or image files")
            yield from found
        else:
            yield path


def writer(args: argparse.Namespace) -> Callable[[str, Top], None]:
    """What prints the classes of an image, in the format asked for."""
    if args.json:
        return write_json
    if args.csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(["image", "rank", "class", "probability"])
        return lambda path, top: rows.writerows(
            [path, rank, name, f"{probability:.6f}"] for rank, (name, probability) in enumerate(top, 1)
        )
    return lambda path, top: print(f"{path}: {', '.join(f'{name} {100 * p:.1f} %' for name, p in top)}")


def write_json(path: str, top: Top) -> None:
    classes = [{"name": name, "probability": round(probability, 6)} for name, probability in top]
    print(json.dumps({"image": path, "classes": classes}, ensure_ascii=False))
