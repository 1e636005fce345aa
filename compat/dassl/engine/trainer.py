"""The training loop: epochs, batches, tests, checkpoints and what is logged of them.

A method derives from `TrainerX` and defines `build_model` and `forward_backward`.
"""

import datetime
import os
import time
from collections import OrderedDict
from typing import Any, Optional
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils import (
    AverageMeter,
    CheckpointError,
    MetricMeter,
    load_checkpoint,
    mkdir_if_missing,
    resume_from_checkpoint,
    save_checkpoint,
    tolist_if_not,
)

__all__ = ["TrainerBase", "SimpleTrainer", "TrainerX"]

Names = Optional[str | Sequence[str]]


class TrainerBase:
    """Models with their optimizers and schedules, and the order of events of a training run."""

    def __init__(self):
        self._models: dict[str, nn.Module] = OrderedDict()
        self._optims: dict[str, torch.optim.Optimizer | None] = OrderedDict()
        self._scheds: dict[str, Any] = OrderedDict()
        self._writer = None

    # models

    def register_model(
        self, name: str = "model", model: nn.Module | None = None, optim: Any = None, sched: Any = None
    ) -> None:
        """Save and load `model` under `name`; step `optim` by batch and `sched` by epoch."""
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        if name in self._models:
            raise ValueError(f'a model is registered already under the name "{name}"')
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """The given names as a list, or all of them; ValueError for one that is not registered."""
        if names is None:
            return list(self._models)
        names = tolist_if_not(names)
        for name in names:
            if name not in self._models:
                raise ValueError(f'no model is registered under the name "{name}"; known: {", ".join(self._models)}')
        return names

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """`mode` is "train", or "eval" or "test"."""
        if mode not in ("train", "eval", "test"):
            raise KeyError(f'the mode of a model is train, eval or test, not "{mode}"')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # checkpoints

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Write every model to `directory`/<its name>/`model_name` (default model.pth.tar-<epoch + 1>)."""
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "val_result": val_result,
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory: str) -> int:
        """Go on from the last checkpoint in `directory`, if every model has one.

        Returns:
            The epoch to start with.
        """
        folders = {name: os.path.join(directory, name) for name in self.get_model_names()}
        if not all(os.path.exists(os.path.join(folder, "checkpoint")) for folder in folders.values()):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        epochs = {
            name: resume_from_checkpoint(folder, self._models[name], self._optims[name], self._scheds[name])
            for name, folder in folders.items()
        }
        if len(set(epochs.values())) > 1:
            raise CheckpointError(f"the models in {directory} stopped at different epochs ({epochs}); train again")
        return max(epochs.values(), default=0)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load every model's weights of that epoch, or the best on the validation images.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            CheckpointError: it cannot be read.
        """
        if not directory:
            print("No trained model is given, load_model() is skipped")
            return
        model_file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = os.path.join(directory, name, model_file)
            checkpoint = load_checkpoint(path)
            if "state_dict" not in checkpoint:
                raise CheckpointError(f'the checkpoint "{path}" has no "state_dict": it was not written by a trainer')
            result = checkpoint.get("val_result")  # a number only where the best on validation images was saved
            result = f"{result:.1f}" if isinstance(result, float) else result
            print(f"Load {path} to {name} (epoch={checkpoint.get('epoch')}, val_result={result})")
            self._models[name].load_state_dict(checkpoint["state_dict"])

    # one step

    def model_zero_grad(self, names: Names = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Raises FloatingPointError if the loss is not a number or infinite."""
        if not torch.isfinite(loss).all():
            raise FloatingPointError("the loss is NaN or infinite; a lower OPTIM.LR or a wider precision may help")

    def model_backward(self, loss: torch.Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: Names = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: torch.Tensor, names: Names = None) -> None:
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def update_lr(self, names: Names = None) -> None:
        """End an epoch of the schedules."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    # TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Write TensorBoard events to `log_dir`; without TensorBoard, say so and go on."""
        if self._writer is not None:
            return
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard loads TensorFlow, if there is one
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("No TensorBoard events are written (pip install tensorboard)")
            return
        print(f"Initialize tensorboard (log_dir={log_dir})")
        self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Does nothing where `init_writer` was not called, as in a run that only tests."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # the run

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Epochs `start_epoch` to `max_epoch` - 1; `before_train` may move the start."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for self.epoch in range(self.start_epoch, self.max_epoch):
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None:
        pass

    def after_train(self) -> None:
        pass

    def before_epoch(self) -> None:
        pass

    def after_epoch(self) -> None:
        pass

    def run_epoch(self) -> None:
        raise NotImplementedError

    def test(self) -> float:
        raise NotImplementedError

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        raise NotImplementedError

    def parse_batch_test(self, batch: dict[str, Any]) -> Any:
        raise NotImplementedError

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float] | None:
        raise NotImplementedError

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class SimpleTrainer(TrainerBase):
    """Data, test and checkpoints as a configuration wants them; `build_model` and `run_epoch` are left to others.

    After construction: `cfg`, `device`, `dm`, `train_loader_x`, `train_loader_u` and `val_loader` (or None),
    `test_loader`, `num_classes`, `lab2cname`, `evaluator`, and whatever `build_model` sets, which includes `model`.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.check_cfg(cfg)
        self.cfg = cfg
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -np.inf

    def check_cfg(self, cfg: CfgNode) -> None:
        """For a method to refuse a configuration that does not fit it."""

    def build_data_loader(self) -> None:
        """Set `dm`, the loaders and what is known of the classes."""
        self.dm = DataManager(self.cfg)
        self.train_loader_x = self.dm.train_loader_x
        self.train_loader_u = self.dm.train_loader_u
        self.val_loader = self.dm.val_loader
        self.test_loader = self.dm.test_loader
        self.num_classes = self.dm.num_classes
        self.num_source_domains = self.dm.num_source_domains
        self.lab2cname = self.dm.lab2cname

    def build_model(self) -> None:
        """Set `model` and register what of it is learned."""
        raise NotImplementedError(f"{type(self).__name__} does not define build_model()")

    def train(self) -> None:
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.output_dir)
        writer_dir = os.path.join(self.output_dir, "tensorboard")
        mkdir_if_missing(writer_dir)
        self.init_writer(writer_dir)
        self.time_start = time.time()

    def after_train(self) -> None:
        # the line that CoOp's reader of results waits for, and the one that MaPLe's and PromptSRC's wait for
        print("Finish training\nFinished training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {datetime.timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

    def after_epoch(self) -> None:
        finished = self.epoch + 1
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        if self.cfg.TEST.FINAL_MODEL == "best_val" and not self.cfg.TEST.NO_TEST:
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name="model-best.pth.tar")
        if finished == self.max_epoch or (frequency > 0 and finished % frequency == 0):
            self.save_model(self.epoch, self.output_dir)

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on "val" (where there are validation images) or "test" (default `TEST.SPLIT`).

        Returns:
            The evaluator's first result, accuracy in percent.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = split or self.cfg.TEST.SPLIT
        if split != "val" or self.val_loader is None:
            split = "test"
        print(f"Evaluate on the *{split}* set")
        for batch in tqdm(self.val_loader if split == "val" else self.test_loader, disable=None):
            input, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(input), label)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        return self.model(input)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names: Names = None) -> float:
        """The rate of the first parameter group of the first (named) model."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]


class TrainerX(SimpleTrainer):
    """Trains on labelled images; `forward_backward` makes a step of a batch and returns what is to be logged."""

    def run_epoch(self) -> None:
        self.set_model_mode("train")
        losses = MetricMeter()
        batch_time = AverageMeter()
        data_time = AverageMeter()
        self.num_batches = len(self.train_loader_x)
        frequency = self.cfg.TRAIN.PRINT_FREQ

        end = time.time()
        for self.batch_idx, batch in enumerate(self.train_loader_x):
            data_time.update(time.time() - end)
            losses.update(self.forward_backward(batch))
            batch_time.update(time.time() - end)

            if (self.batch_idx + 1) % frequency == 0 or self.num_batches < frequency:
                to_come = (self.max_epoch - self.epoch) * self.num_batches - self.batch_idx - 1
                eta = datetime.timedelta(seconds=int(batch_time.avg * to_come))
                print(
                    f"epoch [{self.epoch + 1}/{self.max_epoch}] "
                    f"batch [{self.batch_idx + 1}/{self.num_batches}] "
                    f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) "
                    f"data {data_time.val:.3f} ({data_time.avg:.3f}) "
                    f"{losses} lr {self.get_current_lr():.4e} eta {eta}"
                )

            step = self.epoch * self.num_batches + self.batch_idx
            for name, meter in losses.meters.items():
                self.write_scalar(f"train/{name}", meter.avg, step)
            self.write_scalar("train/lr", self.get_current_lr(), step)
            end = time.time()

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W), labels (B,) and domains (B,) on the device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))
