"""The baseline and ours compute the same; what the benchmark prints is what it measured."""

import json
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from versions import needs_flop_counter

from benchmarks import __main__ as benchmark
from benchmarks import cases, profile, scaling, workers
from benchmarks.__main__ import format_peaks, median_peaks, render
from benchmarks.baseline import baseline_relevancy
from benchmarks.cases import BASELINE, NARROW, Case
from promptbias.model.prepacked_linear import linear
from promptbias.utils.errors import UserError


@pytest.mark.parametrize("method", ["BiasTuning", "IVLP"])
def test_baseline_and_ours_compute_the_same_loss_and_gradients(method):
    case = Case("train", method, 7, 5, 5)
    baseline = cases.baseline_model(case, cases.random_clip(NARROW), "cpu")
    ours = cases.tuned_model(case, cases.random_clip(NARROW), "fp32", "cpu").train()
    image, label = cases.images_and_labels(case, 32, "cpu")
    expected, loss = F.cross_entropy(baseline(image), label), ours(image, label)
    expected.backward(), loss.backward()
    torch.testing.assert_close(loss, expected)
    for parameter, plain in zip(ours.adapters.parameters(), (baseline.vision, baseline.text)):
        assert plain.grad.abs().max() > 0
        torch.testing.assert_close(parameter.grad, plain.grad, rtol=1e-3, atol=1e-3 * float(plain.grad.abs().max()))


@pytest.mark.parametrize("task", ["train", "evaluate"])
@pytest.mark.parametrize("method", ["BiasTuning", "IVLP"])
def test_baseline_and_ours_do_the_same_work_again_and_again(task, method):
    case = Case(task, method, 6, 5, 2 if task == "evaluate" else 5)
    implementations = [cases.prepare(case, name, "cpu", NARROW) for name in (BASELINE, "fp32")]
    for _ in range(3):  # steps change what is trained
        expected, ours = (work() for work in implementations)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_baselines_relevancy_is_ours():
    case = Case("relevancy", "ZeroshotCLIP", 3, 4, 4)
    clip_model = cases.random_clip(NARROW)
    model = cases.tuned_model(case, clip_model, "fp32", "cpu").eval()
    image, label = cases.images_and_labels(case, 32, "cpu")
    from promptbias.interp.relevancy import relevancy

    patches, text = relevancy(model, image, label)
    expected_patches, expected_text = baseline_relevancy(clip_model, image, model.text.tokens[label])
    torch.testing.assert_close(patches, expected_patches, rtol=1e-3, atol=1e-5)
    for row, expected, tokens in zip(text, expected_text, model.text.tokens[label]):
        eos = int(tokens.argmax())
        torch.testing.assert_close(row[:eos], expected[:eos], rtol=1e-3, atol=1e-5)


def test_the_baselines_deletion_curves_are_ours():
    case = Case("faithfulness", "ZeroshotCLIP", 7, 12, 12)
    expected, ours = (cases.prepare(case, name, "cpu", NARROW)() for name in (BASELINE, "bf16"))
    assert expected.shape == (7, 11, 12) and 0 < expected.float().mean() < 1
    assert torch.equal(ours, expected)


def test_operations_are_those_of_the_products():
    pytest.importorskip("torch.utils.flop_counter")
    a, bias = torch.randn(8, 16), torch.randn(8)
    for product in (lambda: a @ a.t(), lambda: linear(a, a, bias)):
        assert workers.operations(product) == 2 * 8 * 16 * 8


def test_what_is_trained_is_a_small_file():
    sizes = cases.checkpoint_sizes(NARROW)
    assert sizes["ours"] < 3 * (128 + 128) * 4 + 4000 < sizes[BASELINE]


def test_a_worker_has_its_own_process(monkeypatch):
    monkeypatch.chdir(ROOT)
    worker = workers.Worker(None, "float32", "cpu", 1, "narrow")
    workers.interleave([worker], budget=0)
    assert len(worker.seconds) == 1 and 1e8 < 1 / worker.median() < 1e14 and worker.memory > 2**20
    with pytest.raises(UserError, match="died"), workers.Worker(None, "float13", "cpu", 1) as broken:
        broken.run()


class Sleeper:
    """A worker that only takes time; its first run in each turn takes twice as long."""

    alive = 0

    def __init__(self, seconds):
        self.turns, self.seconds, self.needs = 0, [], seconds

    def __enter__(self):
        Sleeper.alive += 1
        self.turns, self.first = self.turns + 1, True

    def __exit__(self, *error):
        Sleeper.alive -= 1

    def median(self):
        return self.needs

    def run(self):
        assert Sleeper.alive == 1
        needs = self.needs * (2 if self.first else 1)
        time.sleep(needs)
        self.seconds.append(needs)
        self.first = False


def test_workers_take_turns_alone_and_no_first_run_counts():
    sleepers = [Sleeper(seconds) for seconds in (0.3, 0.06, 0.001)]
    workers.interleave(sleepers, budget=0.5)
    assert [sleeper.turns for sleeper in sleepers] == [1, 2, 2]
    assert [len(sleeper.seconds) for sleeper in sleepers] == [1, 2, 8]
    assert all(set(sleeper.seconds) == {sleeper.needs} for sleeper in sleepers)


@pytest.mark.parametrize("implementation", [BASELINE, "fp32"])
def test_a_profile_finds_the_time_of_every_kind(implementation):
    seconds = profile.seconds_by_kind(Case("train", "IVLP", 4, 2, 2), implementation, "cpu", NARROW)
    assert set(seconds) == set(profile.KINDS) and all(value > 0 for value in seconds.values())


def run(*argv):
    return subprocess.run([sys.executable, "-m", "benchmarks", *argv], cwd=ROOT, capture_output=True, text=True)


@needs_flop_counter
@pytest.mark.slow
def test_what_is_printed_is_what_was_measured(tmp_path):
    done = run(
        "--quick", "--shape", "narrow", "--only", "IVLP", "--seconds", "1", "--json", str(tmp_path / "rows.json")
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "rows.json").read_text())
    (row,) = found["rows"]
    baseline, ours = row["implementations"][BASELINE], row["implementations"][found["precision"]]
    assert ours["speedup"] == pytest.approx(statistics.median(baseline["seconds"]) / statistics.median(ours["seconds"]))
    assert ours["share_of_peak"] > 0 and ours["peak_bytes"] > 2**28
    line = next(
        line for line in done.stdout.splitlines() if line.startswith("| IVLP training step, 10 classes, batch 4")
    )
    assert f"| {ours['speedup']:.1f} " in line and f"| {ours['share_of_peak']:.0%} " in line


def test_a_row_that_does_not_exist_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "ResNet"])
    with pytest.raises(UserError, match='^no row has "ResNet" in its name'):
        benchmark.main()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--turns", "0"])
    with pytest.raises(UserError, match="^--turns 0, but each implementation needs at least one turn"):
        benchmark.main()


def test_without_bf16_there_is_one_column_for_fp32():
    numbers = {"median": 2.0, "speedup": 1.0, "peak_bytes": 2**30}
    row = {"row": "a step", "implementations": {BASELINE: numbers, "fp32": {**numbers, "speedup": 4.0}}}
    header = render([row], "fp32").splitlines()[0]
    assert header.count("fp32") == 1 and "speedup" in header
    row["implementations"]["bf16"] = numbers
    assert render([row], "bf16").splitlines()[0].count("fp32") == 1


def test_each_precision_has_one_peak():
    rows = [{"peaks_per_second": {"fp32": value}} for value in (131e9, 132e9, 140e9)]
    assert format_peaks(median_peaks(rows)) == "132 GFLOP/s in fp32"
    assert format_peaks({"bf16": 7.2e14}) == "720 TFLOP/s in bf16"
    rows = [{"peaks_per_second": {"bf16": 435e9, "fp32": 217e9}}]
    assert format_peaks(median_peaks(rows)) == "435 GFLOP/s in bf16, 217 GFLOP/s in fp32"


def test_scaling_writes_what_its_workers_measured(monkeypatch, tmp_path, capsys):
    class Instant(Sleeper):
        """A worker whose first run takes 9 s and the others 2 s, in 3 GiB."""

        memory = 3 * 2**30

        def __init__(self, *args):
            super().__init__(2.0)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def run(self):
            self.seconds.append(2.0 if self.seconds else 9.0)

    monkeypatch.setattr(scaling, "Worker", Instant)
    scaling.run(str(tmp_path), "cpu", 0, quick=True)
    arrays = np.load(tmp_path / "scaling.npz")
    assert len(arrays["steps"]) == scaling.REPETITIONS and set(arrays["steps"]) == {2.0}
    for x_axis, cases_of_axis in cases.SCALING.items():
        small = [x for x in cases_of_axis if x <= scaling.QUICK_LIMIT]
        assert arrays[x_axis].tolist() == [[x, 2.0, 3.0] for x in small]
    assert (tmp_path / "scaling.png").stat().st_size > 5000
    assert "peak 3.00 GiB" in capsys.readouterr().out
