"""Runs on this machine, each in a process of its own."""

import os
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from promptbias.experiments.runs import Run, terminate_children
from promptbias.utils.startup import Terminated


class Local:
    """`jobs` runs at a time, which share the cores."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        # Programs that run at the same time and each want all cores are far slower than one after the other.
        self.threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
        self.pool = ThreadPoolExecutor(jobs)

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, Terminated):  # a terminal interrupts the runs too, SIGTERM is for this process alone
            terminate_children()
        self.pool.shutdown(cancel_futures=True)

    def room(self) -> int:
        return self.jobs

    def start(self, run: Run) -> Future[str]:
        return self.pool.submit(run.perform, self.threads)

    def first_ended(self, handles: Collection[Future[str]]) -> Future[str]:
        return next(iter(wait(handles, return_when=FIRST_COMPLETED).done))

    def said(self, handle: Future[str]) -> str:
        return handle.result()
