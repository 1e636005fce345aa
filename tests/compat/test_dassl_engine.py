"""compat/dassl: the training loop, its log and checkpoints, with a miniature method written as the family does."""

import os
import re
import sys
import time

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX, build_trainer
from dassl.engine.events import EventWriter
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import CheckpointError, set_random_seed
from PIL import Image

from promptbias.utils.errors import UserError

RESULT_LINE = re.compile(r"\* accuracy: ([\.\deE+-]+)%")  # what the family's parse_test_res.py looks for


class Linear(TrainerX):
    """Learns the colour of a class, and records the calls of the loop."""

    def build_model(self):
        self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, self.num_classes))
        self.model.to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("linear", self.model, self.optim, self.sched)
        self.events = []

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        output = self.model(image)
        loss = torch.nn.functional.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        self.events.append((self.epoch, self.batch_idx, self.get_current_lr()))
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images, four of each of three colours."""
    folder, items = tmp_path_factory.mktemp("colours"), []
    for label, name in enumerate(["red", "green", "blue"]):
        for i in range(4):
            path = str(folder / f"{name}{i}.png")
            Image.new("RGB", (8 + i, 8), name).save(path)
            items.append(Datum(path, label, classname=name))
    return items


@pytest.fixture
def cfg(images, tmp_path):
    class Colours(DatasetBase):
        def __init__(self, cfg):
            super().__init__(train_x=images, val=images[::2], test=images)

    DATASET_REGISTRY.register(Colours, force=True)
    TRAINER_REGISTRY.register(Linear, force=True)
    cfg = get_cfg_default()
    cfg.merge_from_list(
        [
            "OUTPUT_DIR",
            str(tmp_path),
            "DATASET.NAME",
            "Colours",
            "TRAINER.NAME",
            "Linear",
            "DATALOADER.NUM_WORKERS",
            0,
            "USE_CUDA",
            False,
            "INPUT.SIZE",
            (8, 8),
            "INPUT.TRANSFORMS",
            ["random_resized_crop", "random_flip"],
            "DATALOADER.TRAIN_X.BATCH_SIZE",
            4,
            "DATALOADER.TEST.BATCH_SIZE",
            5,
            "TRAIN.PRINT_FREQ",
            2,
            "OPTIM.NAME",
            "sgd",
            "OPTIM.LR",
            0.1,
            "OPTIM.LR_SCHEDULER",
            "cosine",
            "OPTIM.MAX_EPOCH",
            4,
            "OPTIM.WARMUP_EPOCH",
            1,
            "OPTIM.WARMUP_TYPE",
            "constant",
        ]
    )
    return cfg


def run(cfg, seed=1):
    """Train; returns the trainer and the weights."""
    set_random_seed(seed)
    trainer = build_trainer(cfg)
    trainer.train()
    return trainer, torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# the loop


def test_a_run_learns_and_logs(cfg, capsys, tmp_path):
    trainer, _ = run(cfg)
    lines = capsys.readouterr().out.splitlines()
    assert [event[:2] for event in trainer.events] == [(e, b) for e in range(4) for b in range(3)]
    assert [event[2] for event in trainer.events[::3]] == pytest.approx(
        [1e-5, 0.1, 0.1 * (1 + np.cos(np.pi / 4)) / 2, 0.05]
    )
    number = r"\d+\.\d+"
    epoch = re.compile(
        rf"epoch \[2/4\] batch \[2/3\] time {number} \({number}\) data {number} \({number}\) "
        rf"loss {number} \({number}\) acc {number} \({number}\) lr 1.0000e-01 eta 0:00:0\d$"
    )
    assert sum(bool(epoch.match(line)) for line in lines) == 1
    assert sum(line.startswith("epoch [") for line in lines) == 4  # every second of three batches
    assert lines[-1].startswith("Elapsed: 0:00:0")
    assert sorted(os.listdir(tmp_path)) == ["linear", "tensorboard"]
    assert sorted(os.listdir(tmp_path / "linear")) == ["checkpoint", "model.pth.tar-4"]


@pytest.mark.parametrize("end_signal", ["Finish training", "Finished training"])
def test_the_familys_parsers_find_the_result(cfg, capsys, end_signal):
    trainer, _ = run(cfg)
    found, finished = [], False
    for line in capsys.readouterr().out.splitlines():
        finished |= line.strip() == end_signal
        if finished and RESULT_LINE.search(line):
            found.append(float(RESULT_LINE.search(line).group(1)))
    hits = [trainer.model(trainer.parse_batch_test(b)[0]).argmax(1) == b["label"] for b in trainer.test_loader]
    assert found == [pytest.approx(100 * torch.cat(hits).float().mean().item(), abs=0.05)]


def test_the_same_seed_gives_the_same_weights(cfg, tmp_path):
    weights = []
    for i, seed in enumerate((1, 1, 2)):
        cfg.OUTPUT_DIR = str(tmp_path / str(i))
        weights.append(run(cfg, seed)[1])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_resuming_restores_epoch_learning_rate_and_momentum(cfg, tmp_path):
    """With the whole training set in one batch and no augmentation, only the initial weights are random."""
    cfg.merge_from_list(["INPUT.TRANSFORMS", ["normalize"], "DATALOADER.TRAIN_X.BATCH_SIZE", 12])
    _, whole = run(cfg)
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path / "second"), "TRAIN.CHECKPOINT_FREQ", 1])

    class Killed(Linear):
        def before_epoch(self):
            if self.epoch == 2 and not self.start_epoch:
                raise KeyboardInterrupt

    TRAINER_REGISTRY.register(Killed, force=True)
    cfg.TRAINER.NAME = "Killed"
    with pytest.raises(KeyboardInterrupt):
        run(cfg)
    trainer, resumed = run(cfg, seed=5)
    assert trainer.start_epoch == 2 and [e for e, _, _ in trainer.events] == [2, 3]
    assert torch.allclose(resumed, whole, atol=1e-6)


def test_the_best_epoch_on_the_validation_set_is_kept(cfg, tmp_path, capsys):
    cfg.TEST.FINAL_MODEL = "best_val"
    trainer, _ = run(cfg)
    out = capsys.readouterr().out
    assert out.count("Evaluate on the *val* set") == 4 and out.count("Evaluate on the *test* set") == 1
    assert os.path.exists(tmp_path / "linear" / "model-best.pth.tar")
    trainer.load_model(str(tmp_path))
    assert trainer.test(split="val") == trainer.best_result


def test_loading_for_evaluation_only(cfg, tmp_path, capsys):
    trained, weights = run(cfg)
    accuracy = trained.test()
    set_random_seed(9)
    other = build_trainer(cfg)
    other.load_model("")
    other.load_model(str(tmp_path), epoch=4)
    assert torch.equal(torch.cat([p.detach().flatten() for p in other.model.parameters()]), weights)
    assert other.test() == accuracy  # without a TensorBoard writer
    with pytest.raises(FileNotFoundError, match="model.pth.tar-3"):
        other.load_model(str(tmp_path), epoch=3)


def test_models_that_stopped_at_different_epochs(cfg, tmp_path):
    class Two(Linear):
        def build_model(self):
            super().build_model()
            self.register_model("second", torch.nn.Linear(1, 1))

    TRAINER_REGISTRY.register(Two, force=True)
    cfg.TRAINER.NAME = "Two"
    trainer = build_trainer(cfg)
    trainer.save_model(0, str(tmp_path))
    trainer.save_model(1, str(tmp_path))
    assert trainer.resume_model_if_exist(str(tmp_path)) == 2
    (tmp_path / "linear" / "checkpoint").write_text("model.pth.tar-1\n")
    with pytest.raises(CheckpointError, match="different epochs"):
        trainer.resume_model_if_exist(str(tmp_path))
    (tmp_path / "second" / "checkpoint").unlink()
    assert trainer.resume_model_if_exist(str(tmp_path)) == 0


def test_registered_models(cfg):
    trainer = build_trainer(cfg)
    assert trainer.get_model_names() == ["linear"] == trainer.get_model_names("linear")
    with pytest.raises(ValueError, match="linear"):
        trainer.register_model("linear", trainer.model)
    with pytest.raises(ValueError, match="square"):
        trainer.get_model_names("square")
    with pytest.raises(KeyError, match="validate"):
        trainer.set_model_mode("validate")
    trainer.set_model_mode("eval")
    assert not trainer.model.training
    bare = object.__new__(Linear)
    with pytest.raises(AttributeError, match="__init__"):
        bare.register_model("linear", trainer.model)


def test_a_loss_that_is_not_finite(cfg):
    trainer = build_trainer(cfg)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError):
            trainer.model_backward_and_update(trainer.model(torch.zeros(1, 3, 8, 8)).sum() * bad)


def test_an_unknown_trainer_and_an_unfinished_one(cfg):
    cfg.TRAINER.NAME = "Linnear"
    with pytest.raises(ValueError, match='did you mean "Linear"'):
        build_trainer(cfg)
    TRAINER_REGISTRY.register(type("Unfinished", (TrainerX,), {}), force=True)
    cfg.TRAINER.NAME = "Unfinished"
    with pytest.raises(NotImplementedError, match="build_model"):
        build_trainer(cfg)


def test_tensorboard_events(cfg, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(cfg)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/acc", "train/lr", "test/accuracy"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/lr")] == list(range(12))
    assert events.Scalars("train/lr")[4].value == pytest.approx(0.1)


def test_training_works_without_tensorboard(cfg, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    run(cfg)
    assert "No TensorBoard events" in capsys.readouterr().out


def test_a_clock_that_is_set_back_does_not_matter(cfg, capsys, monkeypatch):
    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: next(now))
    run(cfg)
    said = capsys.readouterr().out
    assert re.search(r"Elapsed: 0:00:\d\d\n", said) and not re.search(r"(time|data|eta) -", said)


def test_events_that_cannot_be_written_are_one_sentence(tmp_path):
    writer = EventWriter(str(tmp_path))
    writer.file.close()
    writer.file = open("/dev/full", "wb")  # noqa: SIM115
    writer.records = type(writer.records)(writer.file)
    writer.add_scalar("loss", 1.0, 1)
    with pytest.raises(UserError, match=f"cannot write {tmp_path}.*No space left"):
        writer.flush()
