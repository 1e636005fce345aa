"""`python -m analysis findings REPORT ...`: the paper's findings on one's own runs, confirmed or not, with intervals.

A figure that tests a finding says in `findings` which quantity it looks at and where the finding ends. The report
keeps what came out in findings.json; this command sets several reports side by side, for example one per dataset.
"""

import argparse
import json
import os
from collections.abc import Sequence

import msgspec
import numpy as np

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write
from promptbias.utils.markdown import markdown_table
from promptbias.utils.seals import read_json, seal_json

FILE = "findings.json"
# Bounds of ours, where the paper says that something stays: a mean of attention that differs from plain CLIP's by less
# than SAME %, and what correlates with plain CLIP's above SIMILAR.
SAME, SIMILAR = 10.0, 0.7
CONFIRMED, NOT_CONFIRMED, UNDECIDED = "confirmed", "not confirmed", "undecided"


class Finding(msgspec.Struct):
    """A finding of the paper as one quantity with a bound.

    Attributes:
        claim: the finding, as a sentence without a full stop.
        quantity: what is measured, with its unit.
        value: of it; None where it cannot be measured, for the reason in `cannot_tell`.
        low, high: ends of its 95 % interval over test images, or None.
        std: standard deviation over seeds, or None.
        bound, above: the finding holds above the bound, or below it.
        cannot_tell: why the quantity decides nothing on these runs, or "".
    """

    claim: str
    quantity: str
    value: float | None
    bound: float
    above: bool = True
    low: float | None = None
    high: float | None = None
    std: float | None = None
    cannot_tell: str = ""

    @classmethod
    def of(
        cls, claim: str, quantity: str, value: float, bound: float, above: bool = True, cannot_tell: str = ""
    ) -> "Finding":
        """A finding from a number or an `Estimate`; NaN cannot be measured, and `cannot_tell` must say why."""
        if np.isnan(value):
            return cls(claim, quantity, None, bound, above, cannot_tell=cannot_tell)
        ends = getattr(value, "interval", None)
        low, high = map(float, ends) if ends else (None, None)  # numpy's numbers cannot be written to a file
        return cls(claim, quantity, float(value), bound, above, low, high, getattr(value, "std", None), cannot_tell)

    @property
    def ends(self) -> tuple[float, float]:
        """Where the quantity may lie: its interval over images; without one, two standard deviations over seeds."""
        assert self.value is not None
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return self.value - 2 * (self.std or 0.0), self.value + 2 * (self.std or 0.0)

    @property
    def verdict(self) -> str:
        """Confirmed or not where all of `ends` lies on one side of the bound; otherwise undecided."""
        if self.value is None or self.cannot_tell:
            return UNDECIDED
        low, high = self.ends
        if (low > self.bound) if self.above else (high < self.bound):
            return CONFIRMED
        return NOT_CONFIRMED if ((high < self.bound) if self.above else (low > self.bound)) else UNDECIDED

    @property
    def condition(self) -> str:
        """What the finding asks of the quantity: "> 0"."""
        return f"{'>' if self.above else '<'} {self.bound:g}"

    @property
    def measured(self) -> str:
        """The quantity as text: "3.1 ± 0.2 [2.6, 3.9]"."""
        if self.value is None:
            return "–"
        spread = "" if self.std is None else f" ± {rounded(self.std)}"
        interval = "" if self.low is None or self.high is None else f" [{rounded(self.low)}, {rounded(self.high)}]"
        return rounded(self.value) + spread + interval


class Findings(msgspec.Struct):
    """What findings.json holds: a report's dataset, what it is about, and its findings in order."""

    dataset: str
    model: str
    found: list[Finding]


def rounded(value: float) -> str:
    """
    >>> rounded(12.345), rounded(-0.0449), rounded(0.0), rounded(3e-7)
    ('12.3', '-0.04', '0', '3e-07')
    """
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.005 else f"{value:.0g}"


def mean_of_seeds(of_seeds: Sequence[Sequence[Finding]], of_mean: Sequence[Finding]) -> list[Finding]:
    """The same findings of several seeds as one: means and standard deviations. The intervals are those of the mean.

    What cannot be told of one seed cannot be told of all.
    """
    combined = []
    for mean, *each in zip(of_mean, *of_seeds):
        values = [found.value for found in each if found.value is not None]
        reasons = [found.cannot_tell for found in (*each, mean) if found.cannot_tell]
        whole = len(values) == len(each)
        combined.append(
            msgspec.structs.replace(
                mean,
                value=float(np.mean(values)) if whole else None,
                std=float(np.std(values)) if whole and len(values) > 1 else None,
                cannot_tell=reasons[0] if reasons else "",
            )
        )
    return combined


def rows_of(found: Sequence[Finding]) -> list[list[str]]:
    """The findings as a table, with a heading."""
    heading = ["finding of the paper", "verdict", "value", "holds if", "measured"]
    rows = [
        [
            finding.claim,
            finding.verdict + (f": {finding.cannot_tell}" if finding.cannot_tell else ""),
            finding.measured,
            finding.condition,
            finding.quantity,
        ]
        for finding in found
    ]
    return [heading, *rows] if rows else []


def write(folder: str, findings: Findings) -> None:
    """Write findings.json into the folder of a report."""
    with atomic_write(os.path.join(folder, FILE)) as file:
        json.dump(seal_json(msgspec.to_builtins(findings)), file, indent=1)


def read(folder: str) -> Findings:
    """What `write` wrote.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = os.path.join(folder, FILE)
    if not os.path.isfile(path):
        raise UserError(f"{folder} holds no {FILE}; name folders that `python -m analysis report` has written")
    return read_json(path, Findings)[1]


def side_by_side(reports: Sequence[Findings]) -> list[list[str]]:
    """A row for each finding of any report, a column for each report, with a heading of two columns more."""
    titles = [f"{report.dataset}, {report.model}" for report in reports]
    by_claim: dict[tuple[str, str], dict[int, Finding]] = {}
    for column, report in enumerate(reports):
        for finding in report.found:
            by_claim.setdefault((finding.claim, finding.quantity), {})[column] = finding
    rows = []
    for (claim, quantity), found in by_claim.items():
        cells = [f"{found[i].verdict}: {found[i].measured}" if i in found else "" for i in range(len(reports))]
        rows.append([claim, f"{quantity} {next(iter(found.values())).condition}", *cells])
    return [["finding of the paper", "holds if", *titles], *rows]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="folders that `report` has written")


def main(args: argparse.Namespace) -> None:
    """Print one Markdown table of all reports."""
    heading, *rows = side_by_side([read(folder) for folder in args.reports])
    if not rows:
        raise UserError("these reports have no figure that tests a finding of the paper")
    print(markdown_table(rows, heading))
