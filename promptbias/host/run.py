"""`promptbias run train.py ...`: a checkout's own script, with our trainers registered beside its own."""

import argparse
import importlib
import os
import runpy
import sys
import traceback
from collections.abc import Sequence

from promptbias.utils.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The script and its arguments."""
    parser = argparse.ArgumentParser(
        prog="promptbias run",
        description="Run the train.py of a CoOp, MaPLe or PromptSRC checkout, unchanged, with our trainers "
        "beside its own: `promptbias run train.py --trainer BiasTuning ...` in place of `python train.py ...`.",
    )
    parser.add_argument("script", help="the checkout's script, such as train.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments, as they are")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run a script as `python` would, after `import promptbias.plugin`.

    Returns:
        1 where the script failed with an error of its own, whose traceback is printed.

    Raises:
        UserError: there is no such script, or an error of ours in it.
    """
    args = parse_args(argv)
    if not os.path.isfile(args.script):
        raise UserError(f"there is no {args.script} in {os.getcwd()}; go to the checkout, or give its path")
    sys.argv = [args.script, *args.arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(args.script)))
    importlib.import_module("promptbias.plugin")
    try:
        runpy.run_path(args.script, run_name="__main__")
    except UserError:
        raise
    except Exception as error:  # the script's own
        frames = error.__traceback__
        while frames and frames.tb_frame.f_code.co_filename != args.script:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames or error.__traceback__)
        return 1
    return None
