"""`promptbias methods`: the tuning methods, as they describe themselves."""

import argparse
import contextlib
import io
from collections.abc import Sequence


def rows(backbone: str) -> list[list[str]]:
    """Of each method: name, trainable parameters, where it attaches, whether it folds, options with defaults."""
    from promptbias.api import load_clip, methods
    from promptbias.model.tuned_clip import TunedCLIP

    found = []
    for name, config in methods().items():
        with contextlib.redirect_stdout(io.StringIO()):
            model = TunedCLIP(load_clip(backbone), ["cat", "dog"], config(), precision="fp32")
        sites = {site for adapter in (model.adapters.vision, model.adapters.text) for site in adapter.attaches_to}
        options = [f"{key}={value!r}" for key, value in config.options().items() if key not in ("PREC", "TEMPLATE")]
        folds = "yes" if config.folds else "no"
        parameters = f"{model.adapters.trainable_parameters:,}"
        found.append([name, parameters, ", ".join(sorted(sites)) or "-", folds, " ".join(options) or "-"])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="promptbias methods", description=__doc__)
    parser.add_argument("--backbone", default="tiny", help="CLIP to count the parameters on (default: tiny)")
    args = parser.parse_args(argv)
    from tabulate import tabulate

    headers = ["method", "trainable parameters", "attaches to", "folds", "options (TRAINER.<node>.)"]
    print(tabulate(rows(args.backbone), headers, maxcolwidths=[None, None, 36, None, 50]))
