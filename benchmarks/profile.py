"""Where the time of a training step goes, on the usual side and on ours."""

from collections import Counter

from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from promptbias.model.tuned_clip import DTYPES, resolve_precision

from .cases import VIT_B16, Case, prepare
from .measure import fastest_product, operations

# kind -> torch's operators, by the beginnings of their names; the first that fits counts
KINDS: dict[str, tuple] = {
    "attention": ("aten::bmm", "aten::_softmax", "aten::_scaled", "aten::baddbmm"),
    "products with weights": ("aten::mm", "aten::addmm", "mkldnn::", "aten::mkldnn", "aten::convolution"),
    "layer norms": ("aten::native_layer_norm",),
    "GELU": ("aten::silu", "aten::sigmoid", "aten::mul"),
    "moving and adding": ("",),
}


def seconds_by_kind(case: Case, side: str, device: str, shape: dict[str, int] = VIT_B16) -> dict[str, float]:
    """Seconds of the second step, on the device, by the kinds of KINDS."""
    step = prepare(case, side, device, shape)
    step()
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if device == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        step()
    found: Counter = Counter(dict.fromkeys(KINDS, 0.0))
    for event in seen.key_averages():
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        kind = next(kind for kind, names in KINDS.items() if event.key.startswith(names))
        found[kind] += own / 1e6
    return dict(found)


def show(case: Case, device: str) -> None:
    """Print the table, and the least time that the arithmetic alone needs."""
    precision = resolve_precision("auto", device)
    usual, ours = (seconds_by_kind(case, side, device) for side in ("usual", precision))
    rows = [
        [
            kind,
            f"{usual[kind]:.2f} s",
            f"{usual[kind] / sum(usual.values()):.0%}",
            f"{ours[kind]:.2f} s",
            f"{ours[kind] / sum(ours.values()):.0%}",
        ]
        for kind in KINDS
    ]
    rows.append(["all", f"{sum(usual.values()):.2f} s", "", f"{sum(ours.values()):.2f} s", ""])
    print(f"{case}\n")
    print(tabulate(rows, ["", "usual", "", f"ours, {precision}", ""], tablefmt="github", disable_numparse=True))
    count = operations(prepare(case, precision, device))
    floor = count * fastest_product(DTYPES[precision], device)
    print(
        f"\nOur matrix products are {count / 1e12:.2f}e12 operations: {floor:.2f} s at the machine's fastest product."
    )
