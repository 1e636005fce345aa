"""The paper's findings as verdicts: what an interval decides, and each figure's quantities against its own arrays."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbias.analysis import contribution, controls, entropy, eos_attention, findings, heatmap
from promptbias.analysis.__main__ import main
from promptbias.analysis.comparison import Comparison
from promptbias.analysis.estimates import Estimate
from promptbias.analysis.findings import Finding, Findings
from promptbias.utils.errors import UserError

numbers = st.floats(-100, 100)


@given(numbers, numbers, numbers, numbers, st.booleans())
def test_a_verdict_needs_the_whole_interval_on_one_side(value, a, b, bound, above):
    low, high = sorted((a, b))
    verdict = Finding.of("claim", "quantity", Estimate(value, (low, high)), bound, above).verdict
    holds = [x > bound if above else x < bound for x in (low, high)]
    fails = [x < bound if above else x > bound for x in (low, high)]
    assert (verdict == "confirmed") == all(holds) and (verdict == "not confirmed") == all(fails)


def test_without_an_interval_two_standard_deviations_over_seeds_decide():
    def verdict(std):
        return Finding.of("claim", "quantity", Estimate(1.0, std=std), 0.5).verdict

    assert (verdict(None), verdict(0.2), verdict(0.3)) == ("confirmed", "confirmed", "undecided")


def test_what_cannot_be_told_is_undecided_and_says_why():
    clear = Finding.of("claim", "quantity", 9.0, 0, cannot_tell="it is an artefact")
    missing = Finding.of("claim", "quantity", float("nan"), 0, cannot_tell="there is none")
    assert clear.verdict == missing.verdict == "undecided" and missing.measured == "–"
    assert [row[1] for row in findings.rows_of([clear, missing])[1:]] == [
        "undecided: it is an artefact",
        "undecided: there is none",
    ]


def test_seeds_are_averaged_and_the_interval_is_that_of_the_mean():
    of_seeds = [[Finding.of("claim", "quantity", Estimate(x, (x - 9, x + 9)), 0)] for x in (1.0, 2.0, 6.0)]
    (found,) = findings.mean_of_seeds(of_seeds, [Finding.of("claim", "quantity", Estimate(3.0, (2.0, 4.0)), 0)])
    assert found.value == pytest.approx(3) and found.std == pytest.approx(np.std([1, 2, 6]))
    assert (found.low, found.high, found.verdict) == (2.0, 4.0, "confirmed")


@pytest.fixture(scope="module")
def deep(runs):
    return Comparison(runs["deep"], samples=6)


def test_shares_of_relevancy_against_their_arrays(deep):
    result = contribution.run(deep, argparse_of(contribution))
    tested = {finding.claim: finding for finding in result.findings}
    plain, tuned = (result.arrays[f"{label}: text kinds by image"] for label in list(deep.models)[:2])
    name = 100 * (tuned - plain)[:, 3]  # SOS, prompts, template, class name, end
    assert tested["Text: the class name contributes less"].value == pytest.approx(np.nanmean(name))
    most = 100 * np.nanmean((tuned - plain)[:, 0] - (tuned - plain)[:, 1:3].sum(1))
    assert tested["Text: SOS grows most"].value == pytest.approx(most)
    prompts = tested["Vision: prompts take a prominent share"]
    by_image = result.arrays[f"{deep.label}: vision prompts by image"]
    assert prompts.value == pytest.approx(100 * by_image.mean()) and prompts.low <= prompts.value <= prompts.high
    vision = deep.tuned.adapters.vision.prompt_count
    assert prompts.bound == pytest.approx(100 * vision / (vision + deep.plain.vision.patches), abs=0.05)


def argparse_of(module):
    from argparse import ArgumentParser

    parser = ArgumentParser()
    getattr(module, "add_arguments", lambda parser: None)(parser)
    return parser.parse_args([])


def test_attention_against_its_arrays(deep):
    result = eos_attention.run(deep, argparse_of(eos_attention))
    tested = {finding.claim: finding.value for finding in result.findings}
    before, after = (
        {kind: 100 * result.arrays[f"{label}: {kind}"].mean() for kind in ("SOS", "prompts", "template", "class")}
        for label in list(deep.models)[:2]
    )
    assert tested["Tuning moves EOS' attention away from SOS"] == pytest.approx(after["SOS"] - before["SOS"])
    assert tested["EOS attends to the prompts instead"] == pytest.approx(
        after["prompts"] + after["template"] - before["prompts"] - before["template"]
    )
    assert tested["EOS' attention on the class name stays"] == pytest.approx(abs(after["class"] - before["class"]))

    result = entropy.run(deep, argparse_of(entropy))
    plain, without = (
        values for key, values in result.arrays.items() if key.endswith("[cls]") and "w prompt" not in key
    )
    differences = [abs(a.mean() - b.mean()) / a.mean() for a, b in zip(plain, without)]
    tested = {finding.claim: finding.value for finding in result.findings}
    assert tested["The attention entropy of [cls] stays"] == pytest.approx(100 * np.mean(differences), rel=1e-5)


def test_a_map_that_shows_the_length_of_patches_decides_nothing():
    maps = {"attention": np.full((2, 1), 0.9), "similarity": np.full((2, 1), 0.5), "shortness": np.full((2, 1), 0.99)}
    image = heatmap.Heatmap({}, {}, {0: np.zeros((1, 1, 2, 2))}, maps, [], [], True, "", 1)
    assert [finding.verdict for finding in heatmap.findings(image)] == ["confirmed", "undecided"]
    maps["shortness"] = np.full((2, 1), 0.2)
    assert [finding.verdict for finding in heatmap.findings(image)] == ["confirmed", "confirmed"]


def outcomes(full, constant, no_mass, no_values, none, images=400):
    """Controls of the vision branch in which so many of `images` are right; the other cells are as the intact model."""
    right = np.full((1, len(controls.U), len(controls.MASS), len(controls.ROWS)), full)
    right[0, 1, 1, 0], right[0, 0, 2, 0], right[0, 3, 0, 0], right[0, 3, 2, 0] = constant, no_mass, no_values, none
    return controls.Controls(["vision"], np.arange(images) < right[..., None], {})


def test_what_constants_keep_of_the_gain(tmp_path):
    bias, values = controls.findings(outcomes(full=380, constant=330, no_mass=360, no_values=240, none=200))
    findings.write(str(tmp_path), Findings("Digits", "deep", [bias, values]))
    assert findings.read(str(tmp_path)).found == [bias, values]
    assert bias.value == pytest.approx(100 * 130 / 180) and bias.verdict == "confirmed"
    assert values.value == pytest.approx(100 * (160 - 40) / 180) and values.verdict == "confirmed"
    few, _ = controls.findings(outcomes(full=380, constant=230, no_mass=360, no_values=240, none=200))
    assert few.verdict == "not confirmed"
    for finding in controls.findings(outcomes(full=200, constant=200, no_mass=200, no_values=200, none=200)):
        assert finding.verdict == "undecided" and "gain nothing" in finding.cannot_tell


def test_reports_side_by_side(tmp_path, capsys):
    one = Finding.of("It falls", "its change |a − b|, points", Estimate(-3.2, (-4.0, -1.5)), 0, above=False)
    other = Finding.of("It stays", "correlation", 0.9, 0.7)
    findings.write(str(tmp_path / "a"), Findings("Digits", "deep", [one, other]))
    findings.write(str(tmp_path / "b"), Findings("Letters", "deep", [one]))
    main(["findings", str(tmp_path / "a"), str(tmp_path / "b")])
    heading, _, falls, stays = (
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in capsys.readouterr().out.splitlines()
    )
    assert heading == ["finding of the paper", "holds if", "Digits, deep", "Letters, deep"]
    assert falls == ["It falls", r"its change \|a − b\|, points < 0", *["confirmed: -3.20 [-4.00, -1.50]"] * 2]
    assert stays == ["It stays", "correlation > 0.7", "confirmed: 0.90", ""]


def test_bad_reports_end_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no findings.json; name folders"):
        findings.main(argparse_with(reports=[str(tmp_path)]))
    findings.write(str(tmp_path), Findings("Digits", "bias", []))
    with pytest.raises(UserError, match="no figure that tests a finding"):
        findings.main(argparse_with(reports=[str(tmp_path)]))
    (tmp_path / "findings.json").write_text('{"dataset": 3}')
    with pytest.raises(UserError, match="cannot be read"):
        findings.main(argparse_with(reports=[str(tmp_path)]))


def argparse_with(**options):
    from argparse import Namespace

    return Namespace(**options)
