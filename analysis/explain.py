"""`promptbias explain RUN IMAGE ...`: what speaks for a text in an image, before and after tuning, and its worth.

Writes into the folder --out a picture of each image (PNG and PDF), what is plotted (.npz), the numbers that matter
(.csv), and index.html, one page with all of them that needs nothing else.
"""

import argparse
import dataclasses
import itertools
import os
from collections.abc import Container, Sequence
from typing import Any

USAGE = """
  promptbias explain RUN IMAGE ... [--text TEXT ...] [--out DIR]
  promptbias explain --backbone NAME IMAGE ... --text TEXT ... [--out DIR]"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags, with `run` ("" with --backbone) and `images` told apart."""
    parser = argparse.ArgumentParser(
        prog="promptbias explain",
        usage=USAGE,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="RUN IMAGE ...", help="folder of a finished run, and image files")
    parser.add_argument("--backbone", default="", metavar="NAME", help="explain this CLIP, as `train` takes it; no run")
    parser.add_argument(
        "--text",
        nargs="+",
        action="extend",
        default=[],
        metavar="TEXT",
        help="any texts, after the images (default: the text of the class that the run predicts)",
    )
    parser.add_argument(
        "--out", "--output", default="explained", metavar="DIR", help="output folder (default: explained)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args(argv)
    args.run, args.images = ("", args.paths) if args.backbone else ("".join(args.paths[:1]), args.paths[1:])
    if not args.images:
        parser.error("no image is given; name images before --text, and a run before the images unless --backbone does")
    if args.backbone and not args.text:
        parser.error("--backbone has no classes to choose a text from; add --text")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Explain images one after another.

    Returns:
        1 if any of them could not be read, else 0.
    """
    args = parse_args(argv)
    from promptbias.api import device_for, load, load_clip
    from promptbias.model.images import open_image
    from promptbias.predict import ImageReader
    from promptbias.utils.files import atomic_write

    from . import figures
    from .explanation import Explanation, explain, page
    from .explanation_figure import worth

    figures.check_writable(args.out)
    model: Any = (
        load_clip(args.backbone).to(device_for(args.device)) if args.backbone else load(args.run, device=args.device)
    )
    reader = ImageReader(open_image if args.backbone else model.open_image)
    explanations: dict[str, Explanation] = {}
    for path, image in reader.opened(args.images):
        explanation = dataclasses.replace(explain(model, image, args.text), name=path)
        for label, pairs in explanation.models.items():
            for pair in pairs:
                print(f"{path}, “{pair.text}”, {label}: {', '.join(worth(pair))}", flush=True)
        stem = free_stem(path, explanations)
        explanations[stem] = explanation
        figures.save(explanation.result(stem), args.out, stem)
    if explanations:
        path = figures.file_path(args.out, "index", "html")
        with atomic_write(path) as file:
            file.write(page("What speaks for a text in an image", facts(args, model), list(explanations.values())))
        print(f"written: {path}, and a figure of each image beside it")
    return 1 if reader.skipped else 0


def free_stem(path: str, taken: Container[str]) -> str:
    """What the files of an image are called: as the image, with a number where another one has that name."""
    stem = os.path.splitext(os.path.basename(path))[0]
    names = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    return next(name for name in names if name not in taken)


def facts(args: argparse.Namespace, model: Any) -> dict[str, str]:
    """What the page is about."""
    if args.backbone:
        return {"CLIP": args.backbone}
    return {"run": args.run, "model": model.label, "texts of its classes": model.template}
