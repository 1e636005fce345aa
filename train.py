"""Train or test one run, with CoOp's flags: the same command as `promptbias train`."""

from promptbias.engine.train import main
from promptbias.utils.errors import cli

if __name__ == "__main__":
    cli(main)
