"""predictions.csv: what a run says of each test image, and reading it back."""

import csv
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptbias.engine.metrics import PredictedClasses, unique_names
from promptbias.engine.predictions import Prediction, read_predictions, worst_mistakes, write_predictions
from promptbias.utils.errors import UserError

ONE_FOLDER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
ROWS = st.lists(st.builds(Prediction, NAMES, NAMES, NAMES, st.floats(0, 1)))


def test_a_run_says_what_it_took_each_test_image_for(run):
    folder, _ = run
    results = json.loads((folder / "results.json").read_text())
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "true", "predicted", "probability"] and len(rows) == 540
    assert all(row["path"].split("/")[:3] == ["digits", "images", row["true"]] for row in rows)
    for name, of_class in results["per_class"].items():
        mine = [row["predicted"] == name for row in rows if row["true"] == name]
        assert len(mine) == of_class["count"] and 100 * sum(mine) / len(mine) == pytest.approx(of_class["accuracy"])
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)  # of ten classes the chosen one has a tenth


def test_the_rows_are_those_of_the_logits():
    torch.manual_seed(0)
    logits, names = 3 * torch.randn(7, 3), {0: "crane", 1: "dog", 2: "crane"}
    predicted = PredictedClasses()
    for first, last in ((0, 4), (4, 7)):
        predicted.paths += [f"/data/images/{i}.png" for i in range(first, last)]
        predicted.add(logits[first:last])
    true = [0, 1, 2, 0, 1, 2, 0]
    shown = {0: "crane", 1: "dog", 2: "crane (2)"}
    for i, row in enumerate(predicted.rows(true, names, "/data")):
        exponents = logits[i].double().exp()
        guess = int(logits[i].argmax())
        assert row[:3] == (f"images/{i}.png", shown[true[i]], shown[guess])
        assert row.probability == pytest.approx(float(exponents[guess] / exponents.sum()), abs=1e-6)


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 9), st.sampled_from(["a", "b", "a (2)"])))
def test_no_two_classes_are_shown_under_one_name(names):
    shown = unique_names(names)
    assert shown.keys() == names.keys() and len(set(shown.values())) == len(names)


@ONE_FOLDER
@given(ROWS)
def test_what_is_written_is_read(tmp_path, rows):
    write_predictions(rows, str(tmp_path))
    read = list(read_predictions(str(tmp_path)))
    assert [row[:3] for row in read] == [row[:3] for row in rows]
    assert [row.probability for row in read] == pytest.approx([row.probability for row in rows], abs=1e-6)


@ONE_FOLDER
@given(ROWS, st.integers(0, 5))
def test_the_worst_mistakes_are_the_surest_wrong_ones(rows, count):
    worst = worst_mistakes(iter(rows), count)
    wrong = sorted((row.probability for row in rows if row.true != row.predicted), reverse=True)
    assert [row.probability for row in worst] == wrong[:count] and all(row.true != row.predicted for row in worst)


HEAD = "path,true,predicted,probability\n"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "path,true\n",
        HEAD + "a,b\n",
        HEAD + "a,b,c,d\n",
        HEAD + "a,b,c,nan\n",
        HEAD + "a,b,c,1.5\n",
        HEAD + '"a,b,c,0.5\n',
        HEAD + "a,b,c,0.5,e\n",
        b"\xff\xfe",
        HEAD + "a" * 200_000 + ",b,c,0.5\n",
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    (tmp_path / "predictions.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"predictions.csv is damaged \(.*; remove it") as refused:
        list(read_predictions(str(tmp_path)))
    assert "\n" not in str(refused.value)


def test_a_run_of_an_earlier_version_has_none(tmp_path):
    with pytest.raises(UserError, match="holds no predictions.csv.*--eval-only"):
        list(read_predictions(str(tmp_path)))
