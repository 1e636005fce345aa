"""What the arena found, as Markdown and LaTeX, as numbers for a CSV, and as a figure."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from tabulate import tabulate

from promptbias.experiments.arena import BUDGET, EVERY, published_base_to_new
from promptbias.experiments.paper import Absent
from promptbias.experiments.results import format_mean_std
from promptbias.utils.markdown import markdown_table

from .arena_entries import ACCURACIES, Entry, Found, pareto_front
from .estimates import Estimate
from .figures import STYLES, subplots, theme

NOTE = (
    "Brackets: 95 % bootstrap intervals over the test images, each image's outcome averaged over the seeds; the same "
    "images are drawn for all methods, and the seeds of training are not in the intervals. Macro-F1: mean ± standard "
    "deviation over seeds. Times are medians over seeds on the machine of the runs, data loading included."
)


def with_interval(value: Estimate, sign: str = "") -> str:
    """A number with its interval.

    >>> with_interval(Estimate(2.04, (-0.5, 4.0)), "+")
    '+2.0 [-0.5, 4.0]'
    """
    assert value.interval is not None
    return f"{float(value):{sign}.1f} [{value.interval[0]:.1f}, {value.interval[1]:.1f}]"


def results_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Accuracies of each method."""
    groups = list(entries[0].estimates())
    has_published = any(entry.published is not Absent.MISSING for entry in entries)
    headers = ["method", "trainable parameters", *(f"{ACCURACIES[what]} %" for what in groups), "macro-F1 %"]
    rows = []
    for entry in entries:
        accuracies = [with_interval(value) for value in entry.estimates().values()]
        row = [entry.name, f"{entry.parameters:,}", *accuracies, format_mean_std(entry.macro_f1)]
        published = "" if isinstance(entry.published, Absent) else f"{entry.published:.1f}"
        rows.append([*row, published] if has_published else row)
    return ([*headers, "published %"] if has_published else headers), rows


def cost_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """What each method costs."""
    headers = ["method", "s per step", "s of training", "ms per test image", "extra cost in inference", "folds"]
    rows = []
    for entry in entries:
        times = [f"{entry.step:.3f}", f"{entry.train:.0f}", f"{entry.test:.1f}"]
        shown = ["-" if time == "nan" else time for time in times]
        rows.append([entry.name, *shown, entry.inference, "yes" if entry.folds else "no"])
    return headers, rows


def rate_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """The grids, with accuracies on validation images; what was chosen in bold."""
    groups = list(dict.fromkeys(group for entry in entries for group in entry.rates))
    rows = []
    for entry in entries:
        if not entry.rates:
            continue
        cells = []
        for group in groups:
            shown = {
                rate: f"{rate:g}: " + ("diverged" if math.isnan(mean) else f"{mean:.1f}")
                for rate, mean in entry.rates[group].items()
            }
            chosen = entry.chosen.get(group)
            cells.append(", ".join(f"**{text}**" if rate == chosen else text for rate, text in shown.items()))
        rows.append([entry.name, *cells])
    return ["method", *(f"{group} classes" for group in groups)], rows


def difference_rows(found: Found) -> tuple[list[str], list[list[str]]]:
    """By how many points one method is ahead of another."""
    differences = found.differences()
    groups = list(next(iter(differences.values()), {}))
    rows = [
        [f"{one} − {other}", *(with_interval(value, "+") for value in values.values())]
        for (one, other), values in differences.items()
    ]
    return ["difference in points", *(ACCURACIES[what] for what in groups)], rows


def published_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Published means from base to new classes."""
    found = published_base_to_new([entry.contestant.method for entry in entries])
    rows = [
        [e["method"], e["setting"], f"{e['base']:.2f}", f"{e['new']:.2f}", f"{e['harmonic_mean']:.2f}", e["source"]]
        for e in found
    ]
    return ["method", "setting", "base", "new", "harmonic mean", "source"], rows


def tables(found: Found) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Title -> (headers, rows); those without rows are left out."""
    every = {
        "Results": results_rows(found.entries),
        "Paired differences": difference_rows(found),
        "Cost": cost_rows(found.entries),
        "Learning rates, with accuracies in % on validation images": rate_rows(found.entries),
    }
    if len(found.entries[0].correct) > 1:
        every["Published, from base to new classes: means over eleven datasets, ViT-B/16, 16 shots"] = published_rows(
            found.entries
        )
    return {title: table for title, table in every.items() if table[1]}


def caption(found: Found) -> str:
    arena = found.arena
    budget = dict(zip(BUDGET, arena.budget()[1::2]))
    same = ", ".join(f"{key} {value}" for key, value in {**budget, **dict(zip(*[iter(arena.extra)] * 2))}.items())
    chosen = (
        "each method's learning rate is the best, in mean over the seeds, on the validation images of the few-shot "
        f"split, of its configuration's times {', '.join(f'{factor:g}' for factor in arena.grid)}; no test image "
        "played a part in it"
        if len(arena.grid) > 1
        else f"each method's learning rate is its configuration's times {arena.grid[0]:g}"
    )
    seeds = ", ".join(map(str, arena.seeds))
    return f"{arena.dataset}, {arena.shots} shots, seeds {seeds}. The same for all: {same}. By rule, {chosen}. {NOTE}"


def as_markdown(found: Found) -> str:
    """All tables, with how to read them."""
    parts = [caption(found)]
    for title, (headers, rows) in tables(found).items():
        parts.append(f"**{title}**\n\n" + markdown_table(rows, headers))
    return "\n\n".join(parts) + "\n"


def as_latex(found: Found) -> str:
    """The tables, with booktabs."""
    parts = []
    for title, (headers, rows) in tables(found).items():
        text = tabulate(rows, headers, tablefmt="latex_booktabs", disable_numparse=True)
        parts.append(f"% {title}\n" + text.replace(" ± ", " $\\pm$ ").replace(" − ", " $-$ ").replace("**", ""))
    return "\n\n".join(parts) + "\n"


def numbers(found: Found) -> list[tuple[str, float]]:
    """All of it as (what, value), for a CSV."""
    rows: list[tuple[str, float]] = []
    for entry in found.entries:
        rows += [(f"{entry.name}: {ACCURACIES[what]}, %", value) for what, value in entry.estimates().items()]
        deviation = float(format_mean_std(entry.macro_f1, 6).rpartition(" ")[2]) if len(entry.macro_f1) > 1 else None
        rows.append((f"{entry.name}: macro-F1, %", Estimate(sum(entry.macro_f1) / len(entry.macro_f1), std=deviation)))
        rows.append((f"{entry.name}: trainable parameters", entry.parameters))
        times = {"seconds per step": entry.step, "seconds of training": entry.train, "ms per test image": entry.test}
        rows += [(f"{entry.name}: {what}", value) for what, value in times.items() if not math.isnan(value)]
        rows += [(f"{entry.name}: learning rate on {group} classes", rate) for group, rate in entry.chosen.items()]
    for (one, other), values in found.differences().items():
        rows += [(f"{one} - {other}: {ACCURACIES[what]}, points", value) for what, value in values.items()]
    return rows


@theme()
def plot(found: Found) -> Figure:
    """Accuracy over trainable parameters, with the Pareto front; zero-shot CLIP, which has none, as a line."""
    figure, axes = subplots(height=3.4)
    ax = axes[0, 0]
    for i, entry in enumerate(found.entries):
        estimate = entry.estimates()[EVERY]
        style = {key: STYLES[i % len(STYLES)][key] for key in ("color", "marker")}
        if not entry.parameters:
            ax.axhline(float(estimate), color=style["color"], linestyle="--", label=entry.name)
            continue
        bar = [[whisker] for whisker in estimate.whiskers]
        filled = {"markerfacecolor": style["color"] if entry.folds else "white", "linestyle": "none"}
        ax.errorbar([entry.parameters], [float(estimate)], yerr=bar, markersize=6, label=entry.name, **style, **filled)
    front = pareto_front([entry for entry in found.entries if entry.parameters])
    values = [float(entry.values()[EVERY]) for entry in front]
    ax.step([entry.parameters for entry in front], values, where="post", color="0.6", zorder=0, label="Pareto front")
    ax.set_xscale("log")
    ax.set_xlabel("trainable parameters (filled: folds into a stock CLIP)")
    ax.set_ylabel("accuracy (%)")
    ax.set_title(f"{found.arena.dataset}, {found.arena.shots} shots")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
