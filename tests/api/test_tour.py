"""docs/tour.ipynb: runs from its first cell to its last, and shows what it says."""

import os
import sys

import nbformat
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, "docs"))
import run_tour

PICTURES = {"image/png", "image/jpeg"}


def shown(notebook):
    """The kinds of each output that is not plain text."""
    found = [
        output.get("data", {}).keys() - {"text/plain"} for cell in notebook.cells for output in cell.get("outputs", ())
    ]
    return [kinds for kinds in found if kinds]


def check_outputs(notebook):
    table, *pictures, card = shown(notebook)
    assert table == {"text/html"} and len(pictures) == 4 and card == {"text/markdown"}
    assert all(len(kinds) == 1 and kinds <= PICTURES for kinds in pictures)


# In place of the cell that says how much is run: few images, among them those that the cells below name.
QUICK = """
from promptbias.datasets.digits import Digits

SHOTS, EPOCHS, SAMPLES = 1, 1, 4
draw = Digits.draw
Digits.draw = staticmethod(lambda: (file for number, file in enumerate(draw()) if number < 80 or number == 308))
"""


@pytest.mark.slow
def test_every_cell_runs_offline():
    notebook = run_tour.run(nbformat.read(run_tour.TOUR, as_version=4), QUICK)
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in ran)
    explained = {"image/png", "text/html"}
    assert shown(notebook) == [{"text/html"}, {"image/png"}, {"image/png"}, explained, explained, {"text/markdown"}]
    run_tour.shrink(notebook)
    check_outputs(notebook)


def test_what_is_committed_has_been_run_and_is_small():
    notebook = nbformat.read(run_tour.TOUR, as_version=4)
    nbformat.validate(notebook)
    assert os.path.getsize(run_tour.TOUR) < 300_000
    check_outputs(notebook)
    kinds = {output.output_type for cell in notebook.cells for output in cell.get("outputs", ())}
    assert "error" not in kinds
    assert "/tmp/" not in nbformat.writes(notebook)
