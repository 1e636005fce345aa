"""Measuring sides in turn, each in a process of its own, so that each has its own peak memory."""
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Dict, List, Optional

import torch

from .cases import Case, prepare

MATMUL = 4096  # side of the square matrices whose product stands for the machine's peak


class Side:
    """One side of a case, ready in a process of its own.

    Args:
        case: what to do; None multiplies two square matrices of dtype `name`.
        name: "usual" or a precision of ours.
        threads: of torch; 0 leaves its choice.
    """

    def __init__(self, case: Optional[Case], name: str, device: str, threads: int = 0) -> None:
        words = [sys.executable, "-m", "benchmarks.measure", name, device, str(threads), *map(str, case or ())]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.idle_bytes = self.ask("memory")
        self.operations = self.ask("count")
        self.seconds: List[float] = []

    def ask(self, what: str) -> float:
        print(what, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a measuring process died with exit status {self.process.wait()}")
        return float(answer)

    def run(self) -> float:
        """Do the work once; its seconds are kept."""
        self.seconds.append(self.ask("run"))
        return self.seconds[-1]

    def median(self) -> float:
        return statistics.median(self.seconds)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def in_turn(sides: Dict[str, Side], budget: float, most: int = 9) -> None:
    """Run all sides once to warm up, then in turn until `budget` seconds are spent: at least once, at most `most` times."""
    for side in sides.values():
        side.run()
    warm = sum(side.seconds.pop() for side in sides.values())
    for _ in range(max(1, min(most, int(budget / warm)))):
        for side in sides.values():
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
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def matmul(dtype: torch.dtype, device: str):
    a, b = (torch.randn(MATMUL, MATMUL, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def serve() -> None:
    """The process of a `Side`: answers "run" (seconds), "count" (operations) and "memory" (bytes), one line each."""
    name, device, threads, *case = sys.argv[1:]
    if int(threads):
        torch.set_num_threads(int(threads))
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints stays out of the answers
    if case:
        work = prepare(Case(*case[:2], *map(int, case[2:])), name, device)
    else:
        work = matmul(getattr(torch, name), device)
    for what in map(str.strip, sys.stdin):
        if what == "run":
            started = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            answer: float = time.perf_counter() - started
        elif what == "count":
            answer = operations(work) if name != "usual" else 0.0
        else:
            answer = peak_bytes(device)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    serve()
