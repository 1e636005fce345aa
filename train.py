"""Train or test one run, with CoOp's flags: the same command as `promptbias train`."""

from promptbias.utils.startup import handle_signals

if __name__ == "__main__":
    handle_signals()  # before anything that takes a while

from promptbias.utils.errors import cli


def main() -> None:
    from promptbias.engine.train import main as train  # after `cli` has deferred what is not needed

    train()


if __name__ == "__main__":
    cli(main)
