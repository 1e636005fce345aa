"""`python -m promptbias`: the console command `promptbias`."""

from promptbias.cli import main
from promptbias.utils.errors import cli

if __name__ == "__main__":
    cli(main)
