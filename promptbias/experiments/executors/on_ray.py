"""Runs on Ray: a cluster that is there, or one on this machine that ends with this process.

A run is one task and one process, so that a killed one leaves nothing behind. Ray starts it again, and it resumes after
its last finished epoch, like a run whose driver was killed when the same command is given again. A cluster's machines
must see the same folders under the same names, and have promptbias installed.
"""

import contextlib
import importlib
import math
import os
from collections.abc import Collection
from typing import Any

from promptbias.experiments.resources import estimate_gib
from promptbias.experiments.runs import Run, environment
from promptbias.utils.errors import UserError, sentence

RETRIES = 3  # of a run whose process was killed or whose machine was lost
QUEUE = 2  # runs handed out for each that can run: the next one is there when one ends, and a cluster may grow
GIB = 2**30


def perform(argv: list[str], folder: str) -> str:
    """`promptbias train argv` in this process, which Ray started for it, in the working folder of the driver.

    Returns:
        Why it failed; "" where the run is finished.
    """
    from promptbias.engine.train import main

    os.chdir(folder)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            main(argv)
        except Exception as error:  # a bug must not end the others either
            return sentence(error) or f"{type(error).__name__}: {error}"
    return ""


def gpu_gib() -> float:
    """Memory of the GPU of this process."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / GIB


class OnRay:
    """At most `jobs` runs at a time on a machine, which share its cores; fewer where memory or GPUs do not suffice.

    Several runs share a GPU if their estimates fit into its memory.

    Args:
        address: of a cluster; "" starts one on this machine, unless RAY_ADDRESS names one.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """

    def __init__(self, jobs: int, address: str = "") -> None:
        self.jobs, self.address = jobs, address or os.environ.get("RAY_ADDRESS") or "local"

    def __enter__(self) -> "OnRay":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise UserError('--on ray needs Ray, which is not installed; `pip install "promptbias[ray]"`') from error
        self.ray = ray
        path = environment().get("PYTHONPATH", "")
        options = {"include_dashboard": False} if self.address == "local" else {}
        try:
            ray.init(
                address=self.address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": path} if path else {}},
                **options,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"Ray cannot be reached at {self.address} ({reason}); check --ray-address") from error
        # A process for each task: it gives back all memory, and the next run begins like any other.
        self.task: Any = ray.remote(max_calls=1, max_retries=RETRIES)(perform)
        self.gpu_gib = self.ask_gpu() if ray.cluster_resources().get("GPU") else 0.0
        return self

    def __exit__(self, *error: Any) -> None:
        self.ray.shutdown()

    def ask_gpu(self) -> float:
        """Memory of one of the cluster's GPUs, in GiB."""
        return self.ray.get(self.ray.remote(num_gpus=1, max_calls=1)(gpu_gib).remote())

    def cores(self) -> float:
        """Of the smallest machine that has any."""
        found = [node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"]]
        return min((cores for cores in found if cores), default=1)

    def memory(self) -> float:
        """Of the largest machine, in bytes, as Ray hands it out."""
        return max((node["Resources"].get("memory", 0) for node in self.ray.nodes() if node["Alive"]), default=0)

    def needs(self, run: Run) -> dict[str, float]:
        """What Ray sets aside for a run; its memory on the CPU, and on a GPU a share of that."""
        needed = estimate_gib(run)
        share = {"num_gpus": share_of_gpu(needed, self.gpu_gib)} if self.gpu_gib else {}
        # Ray waits for ever for a machine with more memory than any has; such a run gets a machine for itself.
        memory = int(min(needed * GIB, self.memory()))
        return {"num_cpus": max(1, self.cores() // self.jobs), "memory": memory, **share}

    def room(self) -> int:
        machines = sum(bool(node["Alive"]) for node in self.ray.nodes())
        return QUEUE * self.jobs * max(1, machines)

    def start(self, run: Run) -> Any:
        return self.task.options(**self.needs(run)).remote(run.argv, os.getcwd())

    def first_ended(self, handles: Collection[Any]) -> Any:
        return self.ray.wait(list(handles), num_returns=1)[0][0]

    def said(self, handle: Any) -> str:
        try:
            return self.ray.get(handle)
        except self.ray.exceptions.RayError as error:
            return f"its process was lost {RETRIES + 1} times ({type(error).__name__}); the same command resumes it"


def share_of_gpu(needed: float, memory: float) -> float:
    """The part of a GPU that a run takes, rounded up so that a whole number of runs fits.

    >>> share_of_gpu(5, 24), share_of_gpu(30, 24)
    (0.25, 1.0)
    """
    return 1 / max(1, math.floor(memory / needed))
