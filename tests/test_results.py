"""The tables at the end of the scripts."""
import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import results
from trainers.tuning.errors import UserError


@pytest.fixture
def runs(tmp_path):
    """runs(name, {seed: accuracy}): a folder of finished runs."""

    def make(name, accuracies):
        for seed, accuracy in accuracies.items():
            folder = tmp_path / name / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps({"accuracy": accuracy, "macro_f1": accuracy / 2}))
        return str(tmp_path / name)

    return make


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_harmonic_mean(a, b):
    assert results.harmonic_mean(a, b) == pytest.approx(statistics.harmonic_mean([a, b]))


def test_harmonic_mean_of_nothing():
    assert results.harmonic_mean(0.0, 0.0) == 0.0


def test_seeds_and_their_spread(runs):
    table = results.table_of_seeds(runs("a", {2: 62.0, 1: 60.0}), [runs("z", {1: 40.0}) + "/seed1"], None)
    lines = [line.split() for line in table.splitlines()[2:]]
    assert lines[0] == ["zero-shot", "40.0", "20.0"] and lines[1] == ["seed", "1", "60.0", "30.0"]
    assert lines[3] == ["mean", "±", "std", "61.0", "±", "1.0", "30.5", "±", "0.5"]


def test_base_and_new(runs):
    table = results.table_of_base_and_new([runs("b", {1: 60.0}), runs("n", {1: 40.0})], [], None)
    assert table.splitlines()[-1].split()[-3:] == ["60.0", "40.0", "48.0"]


def test_an_unfinished_run_is_one_sentence(runs, tmp_path):
    folder = runs("a", {1: 60.0})
    (tmp_path / "a" / "seed2").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        results.read_seeds(folder)
    (tmp_path / "a" / "seed2" / "config.yaml").write_text("")
    with pytest.raises(UserError, match="is not finished"):
        results.read_seeds(folder)
    (tmp_path / "a" / "seed2" / "results.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        results.read_seeds(folder)
