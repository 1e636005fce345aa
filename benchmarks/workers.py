"""Measuring sides in turn, each in a process of its own, so that each has its own peak memory."""

import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from promptbias.model import prepacked_linear as frozen
from promptbias.utils.errors import UserError
from promptbias.utils.startup import disable_malloc_trim

from .cases import Case, prepare

# Products (n, k) x (k, m) of which the fastest stands for the machine's peak: large squares, and on a CPU ViT-B/16's own.
MATMULS = {"cpu": ((2048, 2048, 2048), (2048, 3072, 768)), "cuda": ((4096, 4096, 4096), (8192, 8192, 8192))}


class Side:
    """One side of a case, in a process of its own that lives as long as the context:

        with side:
            side.run()

    Args:
        case: what to do; None is the machine's fastest product of matrices of dtype `name`: seconds of one operation.
        name: "usual" or a precision of ours.
        threads: of torch; 0 leaves its choice.

    Attributes:
        seconds: of every run that counts.
        memory: peak so far, bytes.
    """

    def __init__(self, case: Case | None, name: str, device: str, threads: int = 0) -> None:
        self.words = [sys.executable, "-m", "benchmarks.measure", name, device, str(threads), *map(str, case or ())]
        self.seconds: list[float] = []
        self.memory = 0.0

    def __enter__(self) -> "Side":
        # in a session of its own, so that an interruption reaches only the one that waits for it
        self.process = subprocess.Popen(
            self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
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


def in_turn(sides: Sequence[Side], budget: float, turns: int = 2, most: int = 4) -> None:
    """Run all sides in turn, in about `budget` seconds of which each has the same share.

    Only the side whose turn it is has a process: memory that others hold or have given back would make it slower. A side has
    `turns` turns, in each of which it runs once at least and `most` times at most; but one turn if that alone takes longer
    than half of the budget. Runs before warm it up, in as much time again, and do not count: until the memory of a step has
    found its places, which takes three runs, one takes up to twice as long.
    """
    share = budget / len(sides) / turns
    longest = budget / 2
    for _ in range(turns):
        for side in sides:
            if side.seconds and 2 * side.median() > longest:
                continue
            with side:
                take_turn(side, share, most)


def take_turn(side: Side, share: float, most: int) -> None:
    """Warm up for at most `share` seconds, then run as long again; see `in_turn`."""
    left, counted = share, len(side.seconds)
    for _ in range(3):
        side.run()
        seconds = side.seconds[-1]  # without the start of the process
        left -= seconds
        if seconds > left:
            break
    del side.seconds[counted:]
    for _ in range(max(1, min(most, int(share / seconds)))):
        side.run()


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
        {} if frozen.laid_out is None else {frozen.multiply: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0]}
    )
    with FlopCounterMode(display=False, custom_mapping=ours) as counter:
        work()
    return float(counter.get_total_flops())


def fastest_product(dtype: torch.dtype, device: str) -> float:
    """Seconds for one floating-point operation in the fastest of the MATMULS, as the median of some products in a row.

    Both of torch's own product and of ours, which has one of the factors laid out beforehand.
    """
    seconds = []
    for n, k, m in MATMULS[device]:
        a, b, bias = (torch.randn(size, device=device).to(dtype) for size in ((n, k), (m, k), (m,)))
        for product in (lambda: a @ b.t(), lambda: frozen.linear(a, b, bias)):
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
    """The process of a `Side`: answers "run" (seconds), "count" (operations) and "memory" (bytes), one line each."""
    name, device, threads, *case = sys.argv[1:]
    if int(threads):
        torch.set_num_threads(int(threads))
    if name != "usual":
        disable_malloc_trim()  # as our commands do
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints stays out of the answers
    if case:
        work = prepare(Case(*case[:2], *map(int, case[2:])), name, device)
    for what in map(str.strip, sys.stdin):
        if what == "run":
            answer = timed(work, device) if case else fastest_product(getattr(torch, name), device)
        elif what == "count":
            answer = operations(work)
        else:
            answer = peak_bytes(device)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    serve()
