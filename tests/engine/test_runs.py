"""Runs through the real command line: what they leave, and resuming after an interruption."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from promptbias.engine import run_folder
from promptbias.engine.metrics import per_class_metrics
from promptbias.utils.tensor_files import load_tensors, save_tensors


def trained(folder, epoch=2):
    return torch.load(folder / "BlockBias" / f"model.pth.tar-{epoch}", weights_only=True)


def test_what_a_run_leaves(run):
    folder, done = run
    results = json.loads((folder / "results.json").read_text())
    assert 0 <= results["accuracy"] <= 100 and 0 <= results["macro_f1"] <= 100
    assert results["counts"] == {"train": 20, "test": 540, "classes": 10, "trainable_parameters": 2 * 3 * 128}
    assert sum(c["count"] for c in results["per_class"].values()) == 540
    mean = sum(c["accuracy"] * c["count"] for c in results["per_class"].values()) / 540
    assert mean == pytest.approx(results["accuracy"])
    assert results["seed"] == 1 and results["shots"] == 2 and results["machine"]["torch"] == torch.__version__
    assert "Finish training" in (folder / "log.txt").read_text()
    assert os.listdir(folder / "tensorboard")
    assert yaml.safe_load((folder / "config.yaml").read_text())["TRAINER"]["BIASTUNING"]["DEPTH_TEXT"] == 3


def test_a_checkpoint_holds_only_what_was_trained(run):
    checkpoint = trained(run[0])
    assert {key: tuple(value.shape) for key, value in checkpoint["state_dict"].items()} == {
        "vision.bias": (3, 128),
        "text.bias": (3, 128),
    }
    assert checkpoint["state_dict"]["vision.bias"].abs().sum() > 0
    assert os.path.getsize(run[0] / "BlockBias" / "model.pth.tar-2") < 4 * 2 * 3 * 128 + 4096


def test_no_warning_noise(run):
    lines = [line for line in run[1].stderr.splitlines() if "%|" not in line and line.strip()]
    assert lines == []


def test_a_finished_run_is_skipped(run, train_py):
    folder, _ = run
    before = (folder / "log.txt").read_text()
    done = train_py("--output-dir", str(folder), "--resume", str(folder))
    assert done.returncode == 0 and "is finished" in done.stdout
    assert (folder / "log.txt").read_text() == before


def test_a_folder_with_another_config_is_refused(run, train_py):
    folder, _ = run
    done = train_py("--output-dir", str(folder), "--resume", str(folder), "OPTIM.LR", "0.125")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "OPTIM.LR: 0.125, 1.0" in done.stderr


def test_eval_only_gives_the_same_number(run, train_py, tmp_path):
    folder, _ = run
    done = train_py(
        "--eval-only", "--model-dir", str(folder), "--load-epoch", "2", "--output-dir", str(tmp_path / "eval")
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((path / "results.json").read_text()) for path in (folder, tmp_path / "eval"))
    assert first["accuracy"] == second["accuracy"] and first["per_class"] == second["per_class"]
    assert (folder / "predictions.csv").read_text() == (tmp_path / "eval" / "predictions.csv").read_text()


def test_the_same_command_gives_the_same_bits(run, train_py, tmp_path):
    assert train_py("--output-dir", str(tmp_path)).returncode == 0
    for key, value in trained(run[0])["state_dict"].items():
        assert torch.equal(value, trained(tmp_path)["state_dict"][key])
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (run[0], tmp_path))
    differing = {"seconds": None, "sha256": None}
    assert {**first, **differing} == {**second, **differing}


def test_the_parser_of_coop_reads_the_log(run):
    # As its documentation has it: the metric's last value after the line that says that training is over.
    lines = [line.strip() for line in (run[0] / "log.txt").read_text().splitlines()]
    found = [re.search(r"\* accuracy: ([\.\deE+-]+)%", line) for line in lines[lines.index("Finish training") :]]
    values = [float(match.group(1)) for match in found if match]
    assert values == [round(json.loads((run[0] / "results.json").read_text())["accuracy"], 1)]


def test_learning_rates_are_those_of_the_paper(train_py, tmp_path):
    """SGD at 0.0025, cosine over 10 epochs, the first at 1e-5. The last step's line shows the next epoch's."""
    done = train_py(
        "--output-dir", str(tmp_path), "OPTIM.MAX_EPOCH", "10", "OPTIM.LR", "0.0025", "TRAIN.PRINT_FREQ", "1"
    )
    assert done.returncode == 0, done.stderr
    rates = dict(re.findall(r"epoch \[(\d+)/10\] batch \[1/\d+\].* lr (\S+)", (tmp_path / "log.txt").read_text()))
    assert [float(rates[str(epoch)]) for epoch in range(1, 11)] == pytest.approx(
        [
            1e-5,
            2.5e-3,
            2.438821e-3,
            2.261271e-3,
            1.984732e-3,
            1.636271e-3,
            1.25e-3,
            8.637288e-4,
            5.152684e-4,
            2.387288e-4,
        ],
        rel=1e-3,
    )


def test_macro_f1_is_the_evaluators(run):
    logged = re.findall(r"\* macro_f1: ([\d.]+)%", (run[0] / "log.txt").read_text())
    assert float(logged[-1]) == round(json.loads((run[0] / "results.json").read_text())["macro_f1"], 1)


def test_classes_of_one_name_are_counted_each():
    names = {0: "crane", 1: "maillot", 2: "crane"}
    found, macro_f1 = per_class_metrics(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), names)
    assert {name: (c["accuracy"], c["count"]) for name, c in found.items()} == {
        "crane": (50, 2),
        "maillot": (100, 1),
        "crane (2)": (100, 1),
    }
    assert macro_f1 == pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 3)


def test_a_tested_checkpoint_is_not_a_finished_training(run, train_py, tmp_path):
    folder, flags = run[0], ["--output-dir", str(tmp_path), "--resume", str(tmp_path)]
    test = ["--eval-only", "--model-dir", str(folder), *flags]
    assert train_py(*test).returncode == 0 and "is finished" in train_py(*test).stdout
    done = train_py(*flags)
    assert done.returncode == 0 and "is finished" not in done.stdout
    assert torch.equal(trained(tmp_path)["state_dict"]["text.bias"], trained(folder)["state_dict"]["text.bias"])


def test_results_of_another_checkpoint_are_not_shown(run, train_py, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run[0] / "BlockBias", other / "BlockBias")
    checkpoint = trained(other)
    checkpoint["state_dict"]["text.bias"] += 3
    torch.save(checkpoint, other / "BlockBias" / "model.pth.tar-2")
    flags = ["--eval-only", "--output-dir", str(tmp_path / "eval"), "--resume", str(tmp_path / "eval")]
    for model in (run[0], other):
        done = train_py(*flags, "--model-dir", str(model))
        assert done.returncode == 0 and "is finished" not in done.stdout
    assert "is finished" in train_py(*flags, "--model-dir", str(other)).stdout


def test_the_results_of_a_training_are_not_overwritten_by_a_test(run, train_py):
    kept = {name: (run[0] / name).read_text() for name in ("results.json", "log.txt")}
    folder = ["--output-dir", str(run[0]), "--resume", str(run[0])]
    done = train_py("--eval-only", "--model-dir", str(run[0]), *folder)
    assert done.returncode == 1 and "holds a training run" in done.stderr
    assert kept == {name: (run[0] / name).read_text() for name in kept}


def test_a_run_on_other_images_does_not_resume(run, train_py, tmp_path):
    state = run[0] / "BlockBias" / run_folder.STATE
    (tmp_path / "BlockBias").mkdir()
    for name in ("config.yaml", "results.json"):
        shutil.copy(run[0] / name, tmp_path)
    torch.save({**load_tensors(state), "data": "another"}, tmp_path / "BlockBias" / run_folder.STATE)
    done = train_py("--output-dir", str(tmp_path))
    assert done.returncode == 1 and "other classes or training images" in done.stderr
    assert (tmp_path / "results.json").exists()


def test_resuming_in_another_folder(run, train_py, tmp_path):
    done = train_py("--output-dir", str(tmp_path / "new"), "--resume", str(run[0]))
    assert done.returncode == 0, done.stderr
    assert torch.equal(trained(tmp_path / "new")["state_dict"]["text.bias"], trained(run[0])["state_dict"]["text.bias"])
    done = train_py("--output-dir", str(tmp_path / "newer"), "--resume", str(tmp_path / "typo"))
    assert done.returncode == 1 and "nothing to resume" in done.stderr


def test_the_log_of_an_interrupted_run_makes_way(run, train_py, tmp_path):
    (tmp_path / "log.txt").write_text("broken off")
    assert train_py("--output-dir", str(tmp_path)).returncode == 0
    assert "Finish training" in (tmp_path / "log.txt").read_text()


def test_a_sampler_whose_epochs_differ_in_length(train_py, tmp_path):
    done = train_py(
        "--output-dir",
        str(tmp_path),
        "DATASET.NUM_SHOTS",
        "16",
        "DATALOADER.TRAIN_X.SAMPLER",
        "RandomClassSampler",
        "DATALOADER.TRAIN_X.N_INS",
        "4",
        "DATALOADER.TRAIN_X.BATCH_SIZE",
        "12",
        "OPTIM.MAX_EPOCH",
        "4",
    )
    assert done.returncode == 0, done.stderr


def test_the_state_of_a_warm_up_includes_what_follows_it(tmp_path):
    from promptbias.engine.rng import scheduler_state, set_scheduler_state

    class WarmUp(
        torch.optim.lr_scheduler.ConstantLR
    ):  # as Dassl's: counts its own epoch, then another scheduler takes over
        def __init__(self, optimizer):
            self.successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
            super().__init__(optimizer, factor=0.5, total_iters=1)

        def step(self, epoch=None):
            if self.last_epoch >= 1:
                self.successor.step()
            else:
                super().step()

    def make():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        return optimizer, WarmUp(optimizer)

    (optimizer, scheduler), (resumed_optimizer, resumed) = make(), make()
    rates = []
    for epoch in range(8):
        if epoch == 4:
            save_tensors([optimizer.state_dict(), scheduler_state(scheduler)], tmp_path / "states")
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    states = load_tensors(tmp_path / "states")
    resumed_optimizer.load_state_dict(states[0])
    set_scheduler_state(resumed, states[1])
    for rate in rates[4:]:
        resumed_optimizer.step()
        resumed.step()
        assert resumed_optimizer.param_groups[0]["lr"] == rate
