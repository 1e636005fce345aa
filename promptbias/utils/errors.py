"""Errors that a user can cause, told in one sentence."""

import difflib
import sys
from collections.abc import Callable, Iterable

from promptbias.utils.startup import keep_freed_memory, put_off_unused


class UserError(Exception):
    """Something the user can put right. The message says what is wrong and the way out, in one sentence."""


def nearest(name: str, known: Iterable[str], otherwise: Iterable[str] = ()) -> str:
    """A hint for a name that is not known: the closest known one, or, if none is close, all of them (or those in `otherwise`).

    >>> nearest("eurosatt", ["eurosat", "dtd"])
    'did you mean "eurosat"?'
    """
    known = sorted(known)
    by_folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return f'did you mean "{by_folded[close[0]]}"?' if close else "known: " + ", ".join(otherwise or known)


def cli(main: Callable[[], int | None]) -> None:
    """Run a command line: what a user can put right ends in one line on stderr and a non-zero exit, not in a traceback.

    An OSError is such a thing too: a file that cannot be read, a full disk. And a package that is not installed.
    """
    put_off_unused()
    keep_freed_memory()
    try:
        sys.exit(main())
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        print(
            f"error: {error.name} is not installed; run pip install -e . in the checkout, or activate its environment",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        sys.exit(130)
