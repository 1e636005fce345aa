"""compat/dassl: checkpoints, written atomically and read without executing code."""

import copy
import os

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import (
    CheckpointError,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)

from promptbias.utils.tensor_files import load_tensors, save_tensors

STATE = {"state_dict": {"module.a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.float16)}, "epoch": 2}


class LiveScheduler:
    """Like Dassl's: an object with the optimizer inside, pickled as it is."""

    def __init__(self, optimizer, last_epoch):
        self.optimizer = optimizer
        self.last_epoch = last_epoch


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'echo > "{self.path}"',)


def test_paths_and_names(tmp_path):
    save_checkpoint(STATE, str(tmp_path), is_best=True)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-2"]
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}
    assert (tmp_path / "checkpoint").read_text().splitlines()[0] == "model.pth.tar-2"  # which is all that Dassl reads
    loaded = load_checkpoint(str(tmp_path / "model.pth.tar-2"))
    assert loaded["epoch"] == 2 and list(loaded["state_dict"]) == ["a", "b"]
    assert torch.equal(loaded["state_dict"]["a"], torch.arange(3.0))
    assert list(STATE["state_dict"]) == ["module.a", "b"]  # the caller's state is unchanged


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    save_checkpoint(STATE, str(tmp_path), model_name="model")
    before = (tmp_path / "model").read_bytes()

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError):
        save_checkpoint(STATE, str(tmp_path), model_name="model")
    assert (tmp_path / "model").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "model"]


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_become_stubs_and_nothing_is_executed(tmp_path, zipped):
    path, trace = str(tmp_path / "model"), tmp_path / "trace"
    weight = torch.nn.Parameter(torch.ones(2))
    state = {
        **STATE,
        "weight": weight,
        "harm": Harmful(trace),
        "size": torch.Size([1]),
        "dtype": torch.bfloat16,
        "scheduler": {"last_epoch": 1, "successor": LiveScheduler(torch.optim.SGD([weight], lr=0.1), 4)},
    }
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(path)
    assert not trace.exists()
    assert torch.equal(loaded["state_dict"]["b"], STATE["state_dict"]["b"]) and torch.equal(loaded["weight"], weight)
    assert loaded["size"] == (1,) and loaded["dtype"] is torch.bfloat16
    stub = loaded["scheduler"]["successor"]
    assert stub.last_epoch == 4 and torch.equal(stub.optimizer.param_groups[0]["params"][0], weight)
    assert stub.stands_for == f"{__name__}.LiveScheduler" and loaded["harm"].stands_for.endswith(".system")


@pytest.mark.parametrize("zipped", [True, False])
def test_reading_without_torch_gives_the_same_tensors(tmp_path, zipped):
    shared, path = torch.arange(24.0), str(tmp_path / "model")
    saved = {
        "transposed": shared.view(4, 6).t(),
        "slice": shared[3:9:2],
        "scalar": torch.tensor(3.5),
        "none": torch.ones(0, 2),
        **{
            str(d): torch.arange(6).to(d)
            for d in (
                torch.bool,
                torch.uint8,
                torch.int8,
                torch.int16,
                torch.int32,
                torch.int64,
                torch.float16,
                torch.bfloat16,
                torch.float32,
                torch.float64,
                torch.complex64,
            )
        },
    }
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    loaded = load_tensors(path)
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    loaded["slice"][0] = -1.0
    assert loaded["transposed"][3, 0] == -1.0  # views still share their storage


@pytest.mark.parametrize("recount", [True, False])
def test_a_schedule_resumes_from_dassls_own_state(tmp_path, recount):
    """Its warm-up stops counting when it ends, and the live successor continues."""
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR, cfg.LR_SCHEDULER, cfg.WARMUP_EPOCH, cfg.WARMUP_TYPE = "sgd", 1.0, "multi_step", 2, "constant"
    cfg.STEPSIZE, cfg.WARMUP_RECOUNT = [3 if recount else 5], recount
    model = torch.nn.Linear(1, 1)
    optimizer = build_optimizer(model, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    state = {
        "last_epoch": 2,
        "base_lrs": [1.0],
        "_step_count": 3,
        "_last_lr": [1.0],
        "cons_lr": 1e-5,
        "warmup_epoch": 2,
        "successor": LiveScheduler(optimizer, 2 if recount else 4),
    }
    torch.save({"state_dict": model.state_dict(), "epoch": 4, "scheduler": state}, tmp_path / "model")
    (tmp_path / "checkpoint").write_text("model\n")
    assert resume_from_checkpoint(str(tmp_path), model, None, scheduler) == 4
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)  # the fifth epoch is the third after the warm-up


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"hello",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-200],
        lambda data: data[:300] + b"\0" * 300 + data[600:],
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_an_error_of_one_sentence(tmp_path, damage, zipped):
    path = tmp_path / "model"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_is_rejected(tmp_path):
    path = str(tmp_path / "program")
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_checkpoint(path)


def test_a_missing_file():
    with pytest.raises(FileNotFoundError, match="nowhere/model"):
        load_checkpoint("nowhere/model")
    with pytest.raises(ValueError):
        load_checkpoint(None)


def test_a_file_of_something_else(tmp_path):
    torch.save({"weights": torch.ones(1)}, tmp_path / "model")
    (tmp_path / "checkpoint").write_text("model\n")
    with pytest.raises(CheckpointError, match="state_dict"):
        resume_from_checkpoint(str(tmp_path), torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"epoch": 10**30}, "epoch"),
        ({"optimizer": []}, "optimizer"),
        ({"optimizer": {"state": {}, "param_groups": []}}, "optimizer"),
        ({"state_dict": {"weight": torch.full((1, 1), torch.nan), "bias": torch.zeros(1)}}, "weight holds"),
        ({"state_dict": {"weight": torch.full((1, 1), 1e38), "bias": torch.zeros(1)}}, "weight holds"),
        ({"state_dict": {"weight": torch.zeros(2, 1), "bias": torch.zeros(1)}}, "does not fit"),
        ({"state_dict": {"weight": torch.zeros(1, 1).to_sparse(), "bias": torch.zeros(1)}}, "Stub"),
    ],
)
def test_content_that_cannot_be_used_is_one_sentence(tmp_path, change, said):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1)).backward()
    optimizer.step()
    state = copy.deepcopy({"state_dict": model.state_dict(), "epoch": 1, "optimizer": optimizer.state_dict()})
    save_checkpoint({**state, **change, "epoch": 1}, str(tmp_path))
    save_tensors({**state, **change}, tmp_path / "model.pth.tar-1")
    with pytest.raises(CheckpointError, match=said) as caught:
        resume_from_checkpoint(str(tmp_path), model, optimizer)
    assert "\n" not in str(caught.value)
    save_tensors(state, tmp_path / "model.pth.tar-1")
    assert resume_from_checkpoint(str(tmp_path), model, optimizer) == 1


def test_pretrained_weights_that_fit(tmp_path, capsys):
    source, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    before = target.bias.detach().clone()
    weights = {"module.weight": source.weight.detach(), "bias": torch.zeros(7), "other": torch.zeros(1)}
    torch.save({"state_dict": weights}, tmp_path / "model")
    load_pretrained_weights(target, str(tmp_path / "model"))
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, before)
    assert "['bias', 'other']" in capsys.readouterr().out
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "model")
    with pytest.warns(UserWarning, match="no weight"):
        load_pretrained_weights(target, str(tmp_path / "model"))


def test_counting_parameters():
    model = torch.nn.Linear(2, 3)
    assert count_num_param(model) == count_num_param(params=model.parameters()) == 9
    assert count_num_param(params=[{"params": model.weight}]) == 6
    with pytest.raises(ValueError):
        count_num_param()


def test_harmful_really_is(tmp_path):
    """These tests would fail if pickle were used carelessly."""
    torch.save(Harmful(tmp_path / "trace"), tmp_path / "model")
    torch.load(tmp_path / "model", weights_only=False)
    assert (tmp_path / "trace").exists()
