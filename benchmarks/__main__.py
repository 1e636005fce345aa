"""Our computation against a baseline, what this family's code computes, in one run: times, speedups, memory.

The baseline: float32, all 77 text positions of every class, text encoded in every training step and for every test
batch, stock CLIP blocks. ViT-B/16 with random weights. Both take turns, each in a process of its own; times are
medians.
"""

import argparse
import json
import platform
import statistics
from typing import Any

import torch
from tqdm import tqdm

from promptbias.model.precision import DTYPES, resolve_precision
from promptbias.utils.errors import UserError, cli
from promptbias.utils.files import atomic_write
from promptbias.utils.markdown import markdown_table

from .cases import BASELINE, CHECKPOINTED, MAX_CLASSES, PROFILED, QUICK, SHAPES, Case, all_cases, checkpoint_sizes
from .workers import Worker, interleave

BASELINE_BYTES_PER_CLASS = 34e6  # of a training step, roughly: what 12 blocks of 77 positions keep for backward


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small rows only")
    parser.add_argument(
        "--shape",
        default="ViT-B/16",
        choices=SHAPES,
        help="of the CLIP; narrow has three small blocks, which show that the benchmark works, not how fast it is",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="torch's threads (default: its own choice)")
    parser.add_argument("--precision", default="auto", choices=["auto", *DTYPES], help="of ours, beside float32")
    parser.add_argument("--seconds", type=float, help="time for the runs of one row (default: 90; with --quick: 12)")
    parser.add_argument(
        "--turns", type=int, help="of each implementation; each starts a process (default: 2; with --quick: 1)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows with this text in their names")
    parser.add_argument("--json", default="", metavar="FILE", help="also write every measured value")
    parser.add_argument(
        "--scaling",
        default="",
        metavar="DIR",
        help="instead: our time and memory over classes (10 to 20,000), batch size and images, as a figure",
    )
    parser.add_argument(
        "--profile", action="store_true", help="instead: where the time of a training step goes, baseline and ours"
    )
    args = parser.parse_args()
    if args.seconds is None:
        args.seconds = 12 if args.quick else 90
    if args.turns is None:
        args.turns = 1 if args.quick else 2
    if args.turns < 1:
        raise UserError(f"--turns {args.turns}, but each implementation needs at least one turn")
    return args


def classes_that_fit(device: str) -> int:
    """How many classes a training step of the baseline can have in the free memory, at most MAX_CLASSES."""
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    return max(10, min(MAX_CLASSES, int((0.8 * free - 3e9) / BASELINE_BYTES_PER_CLASS) // 10 * 10))


def measure_row(case: Case, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row: the baseline, ours, ours in float32, and the peak GEMM throughput, in turn."""
    maps = case.task in ("relevancy", "faithfulness")
    names = [BASELINE, precision] if maps else dict.fromkeys([BASELINE, precision, "fp32"])
    workers = {name: Worker(case, name, args.device, args.threads, args.shape) for name in names}
    peaks = {
        name: Worker(None, str(DTYPES[name]).split(".")[-1], args.device, args.threads, args.shape)
        for name in dict.fromkeys([precision, "fp32"])
    }
    interleave([*workers.values(), *peaks.values()], args.seconds, args.turns)
    with workers[precision] as worker:
        operations = worker.ask("count")  # the same in every precision
    per_second = {name: 1 / worker.median() for name, worker in peaks.items()}
    row = {"row": str(case), "case": case._asdict(), "implementations": {}, "peaks_per_second": per_second}
    for name, worker in workers.items():
        row["implementations"][name] = {
            "seconds": worker.seconds,
            "median": worker.median(),
            "speedup": workers[BASELINE].median() / worker.median(),
            "peak_bytes": worker.memory,
        }
        if name != BASELINE and not maps:
            share = operations / worker.median() / per_second[name]
            row["implementations"][name].update(operations=operations, share_of_peak=share)
    return row


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def row_cells(row: dict[str, Any], precision: str) -> dict[str, str]:
    """A row of the table, header -> text; without the float32 column where float32 is what ours computes in anyway."""
    baseline, ours, exact = (row["implementations"].get(name) for name in (BASELINE, precision, "fp32"))
    cells = {
        "what": row["row"],
        "baseline": duration(baseline["median"]),
        f"ours, {precision}": duration(ours["median"]),
        "speedup": f"{ours['speedup']:.1f}",
        "speedup, fp32": f"{exact['speedup']:.1f}" if exact else "",
        "share of peak": f"{ours['share_of_peak']:.0%}" if ours.get("operations") else "",
        "baseline, GiB": f"{baseline['peak_bytes'] / 2**30:.1f}",
        "ours, GiB": f"{ours['peak_bytes'] / 2**30:.1f}",
    }
    if precision == "fp32":
        del cells["speedup, fp32"]
    return cells


def render(rows: list[dict[str, Any]], precision: str) -> str:
    """The table in Markdown."""
    cells = [row_cells(row, precision) for row in rows]
    return markdown_table([list(row.values()) for row in cells], list(cells[0]))


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def main() -> int | None:
    args = parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU here; leave the flag out to measure the CPU")
    if args.scaling:
        from .scaling import run

        return run(args.scaling, args.device, args.threads, args.quick)
    if args.profile:
        from .profile import print_profile

        return print_profile(QUICK[0] if args.quick else PROFILED, args.device)
    precision = resolve_precision(args.precision, args.device)
    candidates = QUICK if args.quick else all_cases(classes_that_fit(args.device))
    chosen = [case for case in candidates if args.only in str(case)]
    if not chosen:
        raise UserError(f'no row has "{args.only}" in its name; leave --only out to see all')
    print(f"{machine(args.device)}; torch {torch.__version__}; {args.shape}, random weights")
    rows, status = [], None
    try:
        for case in tqdm(chosen, unit="row", dynamic_ncols=True):
            rows.append(measure_row(case, precision, args))
            tqdm.write("; ".join(row_cells(rows[-1], precision).values()))
    except (KeyboardInterrupt, UserError) as error:
        print(str(error) or "interrupted", "; the rows so far:" if rows else "", sep="")
        status = 1 if isinstance(error, UserError) else 130
    if not rows:
        return status
    report(rows, precision, args)
    return status


def median_peaks(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Peak GEMM throughput in floating-point operations per second, by precision: the median over rows."""
    return {
        name: statistics.median(row["peaks_per_second"][name] for row in rows) for name in rows[0]["peaks_per_second"]
    }


def format_peaks(per_second: dict[str, float]) -> str:
    """Each precision once, such as "435 GFLOP/s in bf16, 217 GFLOP/s in fp32"."""
    scaled = {name: (value / 1e12, "T") if value >= 1e13 else (value / 1e9, "G") for name, value in per_second.items()}
    return ", ".join(f"{value:.0f} {prefix}FLOP/s in {name}" for name, (value, prefix) in scaled.items())


def report(rows: list[dict[str, Any]], precision: str, args: argparse.Namespace) -> None:
    """Print the table and what goes with it, and write it all to `--json`."""
    sizes = checkpoint_sizes(SHAPES[args.shape])
    per_second = median_peaks(rows)
    print(f"\n{render(rows, precision)}\n")
    print(f"Peak GEMM throughput: {format_peaks(per_second)}")
    print(
        f"Checkpoint of {CHECKPOINTED}: {sizes['ours'] / 1000:.1f} KB; whole CLIP in half precision: "
        f"{sizes[BASELINE] / 1e6:.0f} MB"
    )
    if args.json:
        metadata = {
            "machine": machine(args.device),
            "torch": torch.__version__,
            "precision": precision,
            "peaks_per_second": per_second,
            "checkpoint_bytes": sizes,
        }
        with atomic_write(args.json) as file:
            json.dump({**metadata, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    cli(main)
