"""Measuring implementations in turn, each in a process of its own, so that each has its own peak memory."""

import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from promptbias.model import prepacked_linear
from promptbias.utils.errors import UserError
from promptbias.utils.startup import disable_malloc_trim

from .cases import BASELINE, NARROW, SHAPES, Case, prepare

# Products (n, k) x (k, m), of which the fastest is the peak: large squares, and on a CPU ViT-B/16's own.
MATMULS = {"cpu": ((2048, 2048, 2048), (2048, 3072, 768)), "cuda": ((4096, 4096, 4096), (8192, 8192, 8192))}
NARROW_MATMULS = ((512, 512, 512),)


class Worker:
    """One implementation of a case, in a process of its own that lives as long as the context:

        with worker:
            worker.run()

    Args:
        case: what to do; None measures the peak GEMM throughput in dtype `name`: seconds per floating-point operation.
        name: BASELINE, or a precision of ours.
        threads: of torch; 0 leaves its choice.
        shape: one of SHAPES.

    Attributes:
        seconds: of every run that counts.
        memory: peak so far, bytes.
    """

    def __init__(
        self, case: Case | None, name: str, device: str, threads: int = 0, shape: str = next(iter(SHAPES))
    ) -> None:
        what = name, device, threads, shape, *(case or ())
        self.argv = [sys.executable, "-m", "benchmarks.workers", *map(str, what)]
        self.seconds: list[float] = []
        self.memory = 0.0

    def __enter__(self) -> "Worker":
        # in a session of its own, so that an interruption reaches only the one that waits for it
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.terminate()
        self.process.communicate()

    def ask(self, what: str) -> float:
        print(what, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise UserError(
                f"a measuring process died with exit status {self.process.wait()}; if memory was short (-9), "
                "choose smaller rows with --quick or --only"
            )
        return float(answer)

    def run(self) -> None:
        """Do the work once; its seconds and the memory are kept."""
        self.seconds.append(self.ask("run"))
        self.memory = max(self.memory, self.ask("memory"))

    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(workers: Sequence[Worker], budget: float, turns: int = 2, max_runs: int = 4) -> None:
    """Run all workers in turn, in about `budget` seconds, of which each has the same share.

    Only the worker whose turn it is has a process: memory that others hold or have returned would slow it down. A
    worker has `turns` turns of one to `max_runs` counted runs; but a single turn if that alone takes longer than half
    of the budget. Each turn begins with a warm-up that takes as long again and does not count: the first three runs of
    a process take up to twice as long, until the allocator has settled.
    """
    share = budget / len(workers) / turns
    longest = budget / 2
    for _ in range(turns):
        for worker in workers:
            if worker.seconds and 2 * worker.median() > longest:
                continue
            with worker:
                take_turn(worker, share, max_runs)


def take_turn(worker: Worker, share: float, max_runs: int) -> None:
    """Warm up for at most `share` seconds, then run as long again; see `interleave`."""
    left, counted = share, len(worker.seconds)
    for _ in range(3):
        worker.run()
        seconds = worker.seconds[-1]  # without the start of the process
        left -= seconds
        if seconds > left:
            break
    del worker.seconds[counted:]
    for _ in range(max(1, min(max_runs, int(share / seconds)))):
        worker.run()


def peak_bytes(device: str) -> int:
    """The largest memory so far: of the process on a CPU, of torch's tensors on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def operations(work) -> float:
    """Floating-point operations of the matrix products in one run, as torch counts them; 0 where it cannot."""
    try:
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        return 0.0
    ours = (
        {}
        if prepacked_linear.packed_weights is None
        else {prepacked_linear.multiply: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0]}
    )
    with FlopCounterMode(display=False, custom_mapping=ours) as counter:
        work()
    return float(counter.get_total_flops())


def seconds_per_operation(dtype: torch.dtype, device: str, sizes: Sequence[tuple[int, int, int]]) -> float:
    """Seconds per floating-point operation at peak GEMM throughput: in the fastest of products of these `sizes`, each
    the median of five.

    Both torch's own product and ours, with a prepacked factor, are tried.
    """
    seconds = []
    for n, k, m in sizes:
        a, b, bias = (torch.randn(size, device=device).to(dtype) for size in ((n, k), (m, k), (m,)))
        for product in (partial(torch.matmul, a, b.t()), partial(prepacked_linear.linear, a, b, bias)):
            in_a_row = [timed(product, device) for _ in range(5)]
            seconds.append(statistics.median(in_a_row) / (2 * n * k * m))
    return min(seconds)


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds until the device has done it."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def serve() -> None:
    """The process of a `Worker`: answers "run" (seconds), "count" (operations) and "memory" (bytes), one line each."""
    name, device, threads, shape, *case = sys.argv[1:]
    if int(threads):
        torch.set_num_threads(int(threads))
    if name != BASELINE:
        disable_malloc_trim()  # as our commands do
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints stays out of the answers
    if case:
        work = prepare(Case(*case[:2], *map(int, case[2:])), name, device, SHAPES[shape])
    products = NARROW_MATMULS if SHAPES[shape] is NARROW else MATMULS[device]
    for what in map(str.strip, sys.stdin):
        if what == "run":
            answer = timed(work, device) if case else seconds_per_operation(getattr(torch, name), device, products)
        elif what == "count":
            answer = operations(work)
        else:
            answer = peak_bytes(device)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    serve()
