"""`python -m promptbias COMMAND ...`."""

import importlib
import sys

from promptbias.utils.errors import cli

COMMANDS = {
    "train": "promptbias.engine.train",
    "experiment": "promptbias.experiments.protocols",
    "analysis": "promptbias.analysis.__main__",
}


def main() -> int | None:
    return importlib.import_module(COMMANDS[sys.argv[1]]).main(sys.argv[2:])


if __name__ == "__main__":
    cli(main)
