"""Files of a run whose form is right and whose content is not, and trainings that end in numbers that are none."""

import copy
import json
import math
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from dassl.optim import build_lr_scheduler, build_optimizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptbias.engine import checkpoints, resume, run_folder
from promptbias.engine.custom_clip import grad_scaler
from promptbias.engine.losses import refuse_diverged
from promptbias.engine.trainer import TuningTrainer
from promptbias.experiments.results import read_results
from promptbias.utils.errors import UserError
from promptbias.utils.seals import seal_json
from promptbias.utils.tensor_files import load_tensors, save_tensors

LIGHT = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


# results.json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
GOOD = {"accuracy": 90.0, "macro_f1": 89.5, "evaluated": None, "classnames": ["a", "b"], "seconds": {"train": 1.0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@LIGHT
@given(st.sampled_from(sorted(GOOD)), JSON, st.booleans())
def test_only_results_of_a_finished_run_are_read(folder, key, value, sealed):
    content = {**GOOD, key: value}
    (folder / run_folder.RESULTS).write_text(json.dumps(seal_json(content) if sealed else content))
    try:
        found = read_results(str(folder))
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert all(type(found[name]) is float and 0 <= found[name] <= 100 for name in ("accuracy", "macro_f1"))
    assert found[key] == value


@pytest.mark.parametrize(
    "text",
    [
        '{"evaluated": null}',
        '{"accuracy": "90", "macro_f1": 90}',
        '{"accuracy": NaN, "macro_f1": 90}',
        '{"accuracy": 250, "macro_f1": 90}',
        '{"accuracy": -5, "macro_f1": 90}',
        '{"accuracy": 90, "macro_f1": 90, "evaluated": 7}',
        "[1, 2]",
        "null",
        "[" * 100_000,
        '{"accuracy": 90, "macro_f1": 90, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_other_results_are_one_sentence_and_not_finished(folder, config, text):
    cfg = config()
    (folder / run_folder.RESULTS).write_text(text)
    run_folder.write_config(cfg, str(folder))
    for read in (read_results, lambda folder: run_folder.finished(cfg, folder)):
        with pytest.raises(UserError, match=r"results.json cannot be read .*; remove it and run again"):
            read(str(folder))


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, config):
    for name in (run_folder.RESULTS, run_folder.CONFIG, "checkpoint", "model.pth.tar-1"):
        os.mkfifo(tmp_path / name)
    for read in (run_folder.read_results, run_folder.read_config, checkpoints.read_pointer):
        with pytest.raises(UserError, match="is not a regular file but a named pipe"):
            read(str(tmp_path))
    with pytest.raises(UserError, match="is not a regular file but a named pipe"):
        checkpoints.read_checkpoint(str(tmp_path / "model.pth.tar-1"))


# Checkpoints and training states


class Trainer(SimpleNamespace):
    def __repr__(self):  # in the reports of hypothesis
        return "a trainer"


@pytest.fixture
def trainer(small_clip, config, tmp_path):
    """What resuming needs of a trainer: bias tuning with SGD and a warm-up, after one epoch."""
    from promptbias.trainers import bias_tuning

    cfg = config()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.OPTIM.NAME, cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.WARMUP_EPOCH = "sgd", 3, 1
    cfg.OPTIM.WARMUP_TYPE, cfg.OPTIM.LR_SCHEDULER = "constant", "cosine"
    model = bias_tuning.CustomCLIP(cfg, ["a", "b"], small_clip)
    optim = build_optimizer(model.adapters, cfg.OPTIM)
    dataset = SimpleNamespace(classnames=["a", "b"], train_x=[])
    trainer = Trainer(
        cfg=cfg,
        model=model,
        optim=optim,
        sched=build_lr_scheduler(optim, cfg.OPTIM),
        scaler=grad_scaler(False),
        dm=SimpleNamespace(dataset=dataset),
        epoch=0,
        best_result=-math.inf,
        seconds_trained=lambda: 1.5,
        output_dir=str(tmp_path),
        model_name="BlockBias",
    )
    step(trainer)
    return trainer


def step(trainer):
    """An epoch of one step."""
    for parameter in trainer.model.adapters.parameters():
        parameter.grad = torch.ones_like(parameter)
    trainer.optim.step()
    trainer.sched.step()


def places(value, path=()):
    """The paths of all that is in nested containers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


STRANGE = [
    None,
    {},
    [],
    "x",
    True,
    -1,
    10**30,
    math.nan,
    math.inf,
    torch.ones(2, 3),
    torch.tensor(1.0),
    torch.full((3, 128), math.nan),
    torch.full((3, 128), 1e38),
    torch.ones(2, 2).to_sparse(),
]


@settings(LIGHT, max_examples=80)
@given(st.data())
def test_a_training_state_is_refused_or_can_be_trained_on(trainer, data):
    resume.save_training_state(trainer)
    path = os.path.join(trainer.output_dir, trainer.model_name, run_folder.STATE)
    state = load_tensors(path)
    # The random generators' states are long lists, of whose numbers one stands for all.
    *way, last = data.draw(st.sampled_from([p for p in places(state) if not (p[0] == "random" and len(p) > 3)]))
    changed = copy.deepcopy(state)
    place = changed
    for key in way:
        place = place[key]
    if isinstance(place, dict) and data.draw(st.booleans()):
        del place[last]
    else:
        place[last] = data.draw(st.sampled_from(STRANGE))
    save_tensors(changed, path)
    try:
        assert resume.resume(trainer, trainer.output_dir) >= 1
        step(trainer)
        refuse_diverged(trainer.model.adapters.state_dict(), 1)
        assert all(math.isfinite(group["lr"]) for group in trainer.optim.param_groups)
        assert math.isfinite(trainer.seconds_before) and not math.isnan(trainer.best_result)
        torch.rand(1)
    except UserError as error:
        assert "\n" not in str(error)
        assert trainer.output_dir in str(error) or "unusable after epoch" in str(error)  # momentum of 1e38
    finally:
        save_tensors(state, path)
        resume.resume(trainer, trainer.output_dir)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"about": None}, "about"),
        ({"optimizer": {}}, "optimizer"),
        ({"epoch": 10**30}, "epoch"),
        ({"epoch": None}, "epoch"),
        ({"random": {}}, "random"),
        ({"state_dict": {"vision.bias": torch.ones(3, 128).to_sparse()}}, "Stub"),
        ({"state_dict": {3: torch.ones(3, 128)}}, "state_dict"),
        ({"state_dict": []}, "state_dict"),
    ],
)
def test_what_a_training_state_lacks_is_named(trainer, change, said):
    resume.save_training_state(trainer)
    path = os.path.join(trainer.output_dir, trainer.model_name, run_folder.STATE)
    save_tensors({**load_tensors(path), **change}, path)
    with pytest.raises(UserError, match=said):
        resume.resume(trainer, trainer.output_dir)


def test_resuming_restores_all_to_the_bit(trainer):
    resume.save_training_state(trainer)
    drawn = torch.rand(3)
    step(trainer)
    after = copy.deepcopy((trainer.model.adapters.state_dict(), trainer.optim.state_dict()))
    resume.resume(trainer, trainer.output_dir)
    assert torch.equal(torch.rand(3), drawn)
    step(trainer)
    for key, value in after[0].items():
        assert torch.equal(trainer.model.adapters.state_dict()[key], value)
    assert trainer.optim.state_dict()["param_groups"] == after[1]["param_groups"]


@LIGHT
@given(st.integers(0, 3 * 128 - 1), st.floats(width=32), st.sampled_from([torch.float32, torch.float64, torch.float16]))
def test_parameters_that_are_none_are_not_loaded(trainer, position, value, dtype):
    contents = checkpoints.checkpoint(trainer.model, trainer.cfg, 0)
    state = contents["state_dict"] = {
        key: torch.zeros_like(tensor, dtype=dtype) for key, tensor in contents["state_dict"].items()
    }
    state["text.bias"].view(-1)[position] = torch.tensor(value).to(
        dtype
    )  # which makes an overflow infinite in every torch
    found = state["text.bias"].view(-1)[position].item()
    if abs(found) <= 1e17:
        checkpoints.load_into(trainer.model, contents, "file", trainer.cfg, "BiasTuning")
        refuse_diverged(trainer.model.adapters.state_dict(), 0)
        return
    with pytest.raises(UserError, match="file cannot be used, text.bias holds"):
        checkpoints.load_into(trainer.model, contents, "file", trainer.cfg, "BiasTuning")
    with pytest.raises(UserError, match="parameters are unusable after epoch 1, text.bias holds"):
        refuse_diverged({"text.bias": state["text.bias"]}, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_none_are_not_counted(value):
    logits = torch.zeros(4, 3)
    trainer = SimpleNamespace(model=lambda _: logits, predicted=SimpleNamespace(add=lambda _: None))
    assert TuningTrainer.model_inference(trainer, torch.zeros(4, 1)) is logits
    logits[2, 1] = value
    with pytest.raises(UserError, match="the logits are not finite"):
        TuningTrainer.model_inference(trainer, torch.zeros(4, 1))


@pytest.mark.slow
def test_a_training_that_diverges_in_its_last_step_has_no_results(train_py, tmp_path):
    done = train_py(
        *("--output-dir", str(tmp_path), "DATALOADER.TRAIN_X.BATCH_SIZE", "20", "OPTIM.LR", "1e30"),
        *("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "0"),
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "the parameters are unusable after epoch 1" in last
    assert "Traceback" not in done.stderr and "accuracy" not in done.stdout
    assert not (tmp_path / run_folder.RESULTS).exists() and not list(tmp_path.glob("BlockBias/*"))


@pytest.mark.slow
def test_a_folder_that_is_removed_during_training_is_one_sentence(train_py, tmp_path):
    import subprocess
    import time

    from conftest import ROOT

    folder = tmp_path / "run"
    command = train_py.command("--output-dir", str(folder), "OPTIM.MAX_EPOCH", "500")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (folder / "BlockBias" / run_folder.STATE).exists() and process.poll() is None:
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("error: ") and str(folder) in said
