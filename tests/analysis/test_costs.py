"""The estimate of a report."""

import pytest

from promptbias.analysis import costs
from promptbias.analysis.commands import FIGURES
from promptbias.analysis.comparison import Comparison


def test_costs_are_those_of_figures():
    assert set(costs.COSTS) <= set(FIGURES)


def test_an_estimate_counts_images_few_shot_images_classes_and_drawing(runs, monkeypatch):
    comparison = Comparison(runs["deep"])
    monkeypatch.setattr(costs, "seconds_per_image", lambda comparison: [0.5, 0.5, 9])
    monkeypatch.setattr(costs, "seconds_per_class", lambda comparison: [0.25, 0.25, 9])
    monkeypatch.setitem(costs.COSTS, "controls", costs.Cost(images=3, few_shot=2, classes=4))
    few_shot, classes = len(comparison.few_shot), len(comparison.classnames)
    found = costs.seconds_of(comparison, {"controls": 10, "overlay": 10})
    expected = 1 * (30 + 2 * few_shot) + 0.5 * 4 * classes + costs.DRAWING  # `controls` shows two models
    assert found == {"controls": pytest.approx(expected), "overlay": costs.DRAWING}
    (distance,) = costs.seconds_of(comparison, {"distance": 10}).values()
    assert distance == pytest.approx(10 * costs.COSTS["distance"].images * 10 + costs.DRAWING)  # and this one all


def test_a_pass_takes_a_time(runs):
    comparison = Comparison(runs["bias"])
    of_models = costs.seconds_per_image(comparison), costs.seconds_per_class(comparison)
    assert all(len(seconds) == 2 and min(seconds) > 0 and max(seconds) < 5 for seconds in of_models)
