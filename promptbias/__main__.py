"""`python -m promptbias`: the console command `promptbias`."""

from promptbias.cli import console

if __name__ == "__main__":
    console()
