"""What performs runs, several at a time."""

from collections.abc import Collection
from typing import Any, Protocol

from promptbias.experiments.runs import Run


class Executor(Protocol):
    """Performs runs while it is entered; `schedule.run_all` hands them out."""

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *error: Any) -> None:
        """End what still runs."""

    def room(self) -> int:
        """How many runs may be handed out at a time."""

    def start(self, run: Run) -> Any:
        """Hand out a run; returns a handle of it."""

    def first_ended(self, handles: Collection[Any]) -> Any:
        """Wait for one of the runs."""

    def said(self, handle: Any) -> str:
        """Why a run that ended failed; "" where it is finished."""
