"""Errors that a user can cause, reported in one sentence."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable

from promptbias.utils.paths import IN_CHECKOUT
from promptbias.utils.startup import defer_unused_imports, disable_malloc_trim


class UserError(Exception):
    """Something the user can put right. The message says what is wrong and how to fix it, in one sentence.

    The base of all such errors, including ConfigError, ImageError and CheckpointError of the Dassl in compat/. What
    another library says, quoted in a message, may have several lines: they become one.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(re.sub(r"\s*\n\s*", " ", message))


def nearest(name: str, known: Iterable[str], otherwise: Iterable[str] = ()) -> str:
    """A hint for an unknown name: the closest known one or, if none is close, all of them (or those in `otherwise`).

    >>> nearest("eurosatt", ["eurosat", "dtd"])
    'did you mean "eurosat"?'
    >>> nearest("imagenet", ["eurosat", "dtd"])
    'known: dtd, eurosat'
    """
    known = sorted(known)
    by_folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return f'did you mean "{by_folded[close[0]]}"?' if close else f"known: {', '.join(otherwise or known) or 'none'}"


def cli(main: Callable[[], int | None]) -> None:
    """Run a command and exit with its status. An error that the user can put right becomes one line on stderr.

    Besides UserError these are OSError (an unreadable file, a full disk) and a package that is not installed.
    """
    defer_unused_imports()
    disable_malloc_trim()
    try:
        sys.exit(main())
    except BrokenPipeError:  # who reads what is printed, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails to flush it at its end
        sys.exit(141)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        install = "pip install -e ." if IN_CHECKOUT else "pip install promptbias"
        print(f"error: {error.name} is not installed; run `{install}`, or activate its environment", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        sys.exit(130)
