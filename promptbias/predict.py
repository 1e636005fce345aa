"""`promptbias predict RUN IMAGE ...`: classes and probabilities of images, by the model of a finished run."""

import argparse
import csv
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Print image, class and probability as CSV."""
    parser = argparse.ArgumentParser(prog="promptbias predict", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16, amp or auto (default: fp32)")
    args = parser.parse_args(argv)
    from promptbias.api import load

    names, probabilities = load(args.run, args.precision, args.device).predict(args.images)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "class", "probability"])
    for image, name, row in zip(args.images, names, probabilities.max(-1).values.tolist()):
        writer.writerow([image, name, f"{row:.4f}"])
