"""The tables at the end of the scripts."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbias.experiments import results
from promptbias.utils.errors import UserError


@pytest.fixture
def runs(tmp_path):
    """runs(name, {seed: accuracy}, **more): a folder of finished runs; more goes into their results.json."""

    def make(name, accuracies, **more):
        for seed, accuracy in accuracies.items():
            folder = tmp_path / name / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps({"accuracy": accuracy, "macro_f1": accuracy / 2, **more}))
        return str(tmp_path / name)

    return make


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_harmonic_mean(a, b):
    assert results.harmonic_mean(a, b) == pytest.approx(statistics.harmonic_mean([a, b]))


def test_harmonic_mean_of_nothing():
    assert results.harmonic_mean(0.0, 0.0) == 0.0


def test_seeds_and_their_mean_and_std(runs):
    table = results.table_of_seeds(runs("a", {2: 62.0, 1: 60.0}), [runs("z", {1: 40.0}) + "/seed1"], None)
    lines = [line.split() for line in table.splitlines()[2:]]
    assert lines[0] == ["zero-shot", "40.0", "20.0"] and lines[1] == ["seed", "1", "60.0", "30.0"]
    assert lines[3] == ["mean", "±", "std", "61.0", "±", "1.0", "30.5", "±", "0.5"]


def test_base_and_new(runs):
    table = results.table_of_base_and_new([runs("b", {1: 60.0}), runs("n", {1: 40.0})], [], None)
    assert table.splitlines()[-1].split()[-3:] == ["60.0", "40.0", "48.0"]


@pytest.mark.parametrize(
    "base, new, lacking",
    [({1: 60.0, 2: 61.0}, {1: 40.0}, "n has no seed2"), ({1: 60.0}, {1: 40.0, 3: 41.0}, "b has no seed3")],
)
def test_base_and_new_need_the_same_seeds(runs, base, new, lacking):
    folders = [runs("b", base), runs("n", new)]
    with pytest.raises(UserError, match=lacking):
        results.table_of_base_and_new(folders, [], None)
    assert "harmonic" in results.table_of_base_and_new(folders, [], [1])


def test_zero_shot_of_another_backbone_is_refused(runs):
    folders = [runs("b", {1: 60.0}, backbone="tiny"), runs("n", {1: 40.0}, backbone="tiny")]
    other, same, unknown = (
        runs(name, {1: 20.0}, **more) + "/seed1"
        for name, more in (("z", {"backbone": "ViT-B/16"}), ("y", {"backbone": "tiny"}), ("x", {}))
    )
    for table, runs_shown, count in (
        (results.table_of_seeds, folders[0], 1),
        (results.table_of_folders, folders, 1),
        (results.table_of_folders, folders, 2),
        (results.table_of_base_and_new, folders, 2),
    ):
        with pytest.raises(UserError, match='backbone is "ViT-B/16", theirs "tiny"'):
            table(runs_shown, [other] * count, None)
        for fitting in (same, unknown):
            assert "20.0" in table(runs_shown, [fitting] * count, None)


def test_an_unfinished_run_is_one_sentence(runs, tmp_path):
    folder = runs("a", {1: 60.0})
    (tmp_path / "a" / "seed2").mkdir()
    with pytest.raises(UserError, match="there is no run in"):
        results.read_seeds(folder)
    (tmp_path / "a" / "seed2" / "config.yaml").write_text("")
    with pytest.raises(UserError, match="is not finished"):
        results.read_seeds(folder)
    (tmp_path / "a" / "seed2" / "results.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        results.read_seeds(folder)
