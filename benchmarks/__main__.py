"""This project's computation against the usual one of its family, side by side in one run: times, ratios, memory.

Usual: float32, all 77 text positions of every class, text encoded in every training step and for every test batch, stock
CLIP blocks. ViT-B/16 with random weights. The sides take turns, each in a process of its own; figures are medians.
"""

import argparse
import json
import platform
import statistics
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from promptbias.model.tuned_clip import DTYPES, resolve_precision
from promptbias.utils.errors import UserError, cli
from promptbias.utils.files import atomic_write

from .cases import Case, file_sizes
from .measure import Side, in_turn

LARGEST = 1000  # classes
USUAL_BYTES_PER_CLASS = 34e6  # of a training step, a rough estimate: what 12 blocks of 77 positions keep for backward
QUICK = [
    Case("train", "IVLP", 10, 4, 4),
    Case("evaluate", "BiasTuning", 10, 16, 8),
    Case("relevancy", "ZeroshotCLIP", 10, 1, 1),
]


def cases(largest: int) -> list[Case]:
    """All rows; `largest` is the number of classes for which the usual step still fits into memory."""
    rows = [
        Case("train", method, classes, batch, batch)
        for classes, batch in ((10, 32), (100, 4), (largest, 4))
        for method in ("BiasTuning", "IVLP")
    ]
    rows += [Case("evaluate", "BiasTuning", classes, 300, 100) for classes in (10, LARGEST)]
    return rows + [Case("relevancy", "ZeroshotCLIP", 10, 32, 32)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small rows only")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (default: its own choice)")
    parser.add_argument("--precision", default="auto", choices=["auto", *DTYPES], help="of our side, beside float32")
    parser.add_argument(
        "--seconds", type=float, help="time for the repetitions of one row (default: 90; 12 of quick ones)"
    )
    parser.add_argument("--only", default="", help="only rows whose name has these words")
    parser.add_argument("--json", default="", metavar="FILE", help="also write all figures, every repetition included")
    parser.add_argument(
        "--scaling",
        default="",
        metavar="DIR",
        help="instead: time and memory of our side over classes "
        "(10 to 20,000), batch and images, as a figure with its numbers",
    )
    parser.add_argument(
        "--profile", action="store_true", help="instead: where the time of a training step goes, on both sides"
    )
    return parser.parse_args()


def most_classes(device: str) -> int:
    """How many classes the usual training step can have in the memory that is free, at most `LARGEST`."""
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    return max(10, min(LARGEST, int((0.8 * free - 3e9) / USUAL_BYTES_PER_CLASS) // 10 * 10))


def measure(case: Case, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row: the usual side, ours, ours in float32, and the machine's matrix products, in turn."""
    names = ["usual", precision] if case.task == "relevancy" else dict.fromkeys(["usual", precision, "fp32"])
    sides = {name: Side(case, name, args.device, args.threads) for name in names}
    peaks = {
        name: Side(None, str(DTYPES[name]).split(".")[-1], args.device, args.threads)
        for name in dict.fromkeys([precision, "fp32"])
    }
    in_turn([*sides.values(), *peaks.values()], args.seconds, turns=1 if args.quick else 2)
    with sides[precision] as side:
        operations = side.ask("count")  # the same in every precision
    per_second = {name: 1 / side.median() for name, side in peaks.items()}
    row = {"row": str(case), "case": case._asdict(), "sides": {}, "peaks_per_second": per_second}
    for name, side in sides.items():
        row["sides"][name] = {
            "seconds": side.seconds,
            "median": side.median(),
            "times_faster": sides["usual"].median() / side.median(),
            "peak_bytes": side.memory,
        }
        if name != "usual" and case.task != "relevancy":
            share = operations / side.median() / per_second[name]
            row["sides"][name].update(operations=operations, share_of_peak=share)
    return row


def line(row: dict[str, Any], precision: str) -> list[str]:
    usual, ours, exact = (row["sides"].get(name) for name in ("usual", precision, "fp32"))
    share = f"{ours['share_of_peak']:.0%}" if ours.get("operations") else ""
    return [
        row["row"],
        f"{usual['median']:.2f} s",
        f"{ours['median']:.2f} s",
        f"{ours['times_faster']:.1f}",
        f"{exact['times_faster']:.1f}" if exact else "",
        share,
        f"{usual['peak_bytes'] / 2**30:.1f}",
        f"{ours['peak_bytes'] / 2**30:.1f}",
    ]


def show(rows: list[dict[str, Any]], precision: str) -> str:
    headers = [
        "what",
        "usual",
        f"ours, {precision}",
        "times faster",
        "times faster, fp32",
        "share of peak",
        "usual, GiB",
        "ours, GiB",
    ]
    return tabulate([line(row, precision) for row in rows], headers, tablefmt="github", disable_numparse=True)


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
        from .scaling import draw

        return draw(args.scaling, args.device, args.threads, args.quick)
    if args.profile:
        from .profile import show as show_profile

        return show_profile(QUICK[0] if args.quick else cases(LARGEST)[0], args.device)
    if args.seconds is None:
        args.seconds = 12 if args.quick else 90
    precision = resolve_precision(args.precision, args.device)
    chosen = [case for case in (QUICK if args.quick else cases(most_classes(args.device))) if args.only in str(case)]
    if not chosen:
        raise UserError(f'no row has "{args.only}" in its name')
    print(f"{machine(args.device)}; torch {torch.__version__}; ViT-B/16, random weights")
    rows, status = [], None
    try:
        for case in tqdm(chosen, unit="row", dynamic_ncols=True):
            rows.append(measure(case, precision, args))
            tqdm.write("; ".join(line(rows[-1], precision)))
    except (KeyboardInterrupt, UserError) as error:
        print(str(error) or "interrupted", "; the rows so far:" if rows else "", sep="")
        status = 1 if isinstance(error, UserError) else 130
    if not rows:
        return status
    report(rows, precision, args)
    return status


def report(rows: list[dict[str, Any]], precision: str, args: argparse.Namespace) -> None:
    """Print the table and what goes with it, and write it all to `--json`."""
    sizes = file_sizes()
    per_second = {
        name: statistics.median(row["peaks_per_second"][name] for row in rows) for name in (precision, "fp32")
    }
    print(f"\n{show(rows, precision)}\n")
    print(
        f"Fastest matrix product of this machine: {per_second[precision] / 1e9:.0f} GFLOP/s in {precision}, "
        f"{per_second['fp32'] / 1e9:.0f} in fp32"
    )
    print(
        f"Checkpoint of BiasTuning: {sizes['ours'] / 1000:.1f} KB; whole CLIP in half precision: "
        f"{sizes['usual'] / 1e6:.0f} MB"
    )
    if args.json:
        about = {
            "machine": machine(args.device),
            "torch": torch.__version__,
            "precision": precision,
            "peaks_per_second": per_second,
            "checkpoint_bytes": sizes,
        }
        with atomic_write(args.json) as file:
            json.dump({**about, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    cli(main)
