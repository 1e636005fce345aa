"""The paper's tables: cells, published numbers, folders, and what is written."""
import csv
import io
import math

import pytest

from analysis import experiments, table
from conftest import ROOT


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_published_numbers_are_where_the_paper_has_them():
    assert table.published(1)("BIAS", "eurosat") == 86.5 and table.published(1)("OPTIMAL", table.AVERAGE) == 80.0
    assert table.published(2)("3", "dtd") == 65.07 and table.published(3)("20", "ucf101") == 84.17
    assert math.isnan(table.published(3)("40", "eurosat"))
    assert table.published(1)("BIAS", "digits") is None and table.published(1)("CLIP-GENERIC", "dtd") is None


@pytest.mark.parametrize("cell, text", [
    (table.Cell([60.0, 62.0], published=60.5), "61.0 ± 1.0 [60.5, +0.5]"),
    (table.Cell([60.0]), "60.0"),
    (table.Cell(published=60.5), "[60.5]"),
    (table.Cell(failed=True, published=math.nan), "– [–]"),
    (table.Cell(), ""),
])
def test_a_cell(cell, text):
    assert cell.text(1) == text


def test_folders_are_those_of_the_scripts():
    run = experiments.Run(experiments.prompts(10), "eurosat", 2, 16, "data", "output")
    assert run.folder == "output/eurosat/IVLP/vit_b16_optimal_16shots/seed2"
    assert experiments.Run(experiments.plain(), "digits", 1, 16, "data", "output").folder == "output/digits/ZeroshotCLIP/tiny"


def test_no_two_settings_share_a_folder():
    settings = {method(dataset) for dataset in ("eurosat",) for of in table.METHODS.values() for method in of.values()}
    folders = {experiments.Run(setting, "eurosat", 1, 16, "data", "output").folder for setting in settings}
    assert len(folders) == len(settings) == 2 + 2 + 12 + 6


def test_csv_and_orientation():
    cells = {"eurosat": {"2": table.Cell([60.0, 62.0], published=60.5)}}
    assert list(csv.reader(io.StringIO(table.as_csv(3, cells)))) == [
        ["Prompts", "EuroSAT", "EuroSAT std", "EuroSAT published", "EuroSAT difference"],
        ["2", "61.0000", "1.0000", "60.5000", "0.5000"]]
    assert "$\\pm$" in table.as_latex(3, cells)
