"""Where the time of a training step goes, in the baseline and in ours."""

from collections import Counter

from torch.profiler import ProfilerActivity, profile

from promptbias.model.precision import DTYPES, resolve_precision
from promptbias.utils.markdown import markdown_table

from .cases import BASELINE, VIT_B16, Case, prepare
from .workers import operations, seconds_per_operation

# kind -> torch's operators, by the beginnings of their names; the first that fits counts
KINDS: dict[str, tuple] = {
    "attention": ("aten::bmm", "aten::_softmax", "aten::_scaled", "aten::baddbmm"),
    "linear layers": ("aten::mm", "aten::addmm", "mkldnn::", "aten::mkldnn", "aten::convolution"),
    "layer norms": ("aten::native_layer_norm",),
    "GELU": ("aten::silu", "aten::sigmoid", "aten::mul"),
    "copies and additions": ("",),
}


def seconds_by_kind(case: Case, implementation: str, device: str, shape: dict[str, int] = VIT_B16) -> dict[str, float]:
    """Seconds of the second step, on the device, by the kinds of KINDS."""
    step = prepare(case, implementation, device, shape)
    step()
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if device == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        step()
    found: Counter = Counter(dict.fromkeys(KINDS, 0.0))
    for event in profiler.key_averages():
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        kind = next(kind for kind, names in KINDS.items() if event.key.startswith(names))
        found[kind] += own / 1e6
    return dict(found)


def print_profile(case: Case, device: str) -> None:
    """Print the table, and the least time that the matrix products alone need."""
    precision = resolve_precision("auto", device)
    baseline, ours = (seconds_by_kind(case, name, device) for name in (BASELINE, precision))
    totals = sum(baseline.values()), sum(ours.values())
    rows = [
        [
            kind,
            f"{baseline[kind]:.2f} s",
            f"{baseline[kind] / totals[0]:.0%}",
            f"{ours[kind]:.2f} s",
            f"{ours[kind] / totals[1]:.0%}",
        ]
        for kind in KINDS
    ]
    rows.append(["all", f"{totals[0]:.2f} s", "", f"{totals[1]:.2f} s", ""])
    print(f"{case}\n")
    print(markdown_table(rows, ["", "baseline", "", f"ours, {precision}", ""]))
    count = operations(prepare(case, precision, device))
    floor = count * seconds_per_operation(DTYPES[precision], device)
    print(f"\nOur matrix products are {count / 1e12:.2f}e12 operations: {floor:.2f} s at peak GEMM throughput.")
