"""`promptbias export RUN --to TARGET --out FOLDER`: the model of a finished run, for another library."""

import argparse
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Export, and print how far the loaded export agrees with the tuned model."""
    parser = argparse.ArgumentParser(prog="promptbias export", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--to", required=True, metavar="TARGET", help="clip, hf, peft, open_clip, onnx or torch")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write, which must not exist")
    parser.add_argument(
        "--two-towers", action="store_true", help="with onnx: an image and a text encoder in place of a classifier"
    )
    parser.add_argument("--root", default="", help="folder of the datasets (default: the one in the run's config)")
    parser.add_argument(
        "--images", nargs="+", default=(), metavar="IMAGE", help="compare on these, not on the run's test images"
    )
    args = parser.parse_args(argv)
    from promptbias.exports.export import export, find_target

    target = find_target(args.to, args.two_towers)
    check = export(args.run, args.to, args.out, two_towers=args.two_towers, images=args.images, root=args.root)
    print(f"loaded again with {target.library}: {check.pixels}")
    if target.rounds:
        print(f"({target.rounds})")
    if check.preprocessed:
        print(f"with its own preprocessing of the images: {check.preprocessed}")
    print(f"{args.out} is written; its README.md says how to load it")
