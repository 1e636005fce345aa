"""The training loop: epochs, batches, evaluation, checkpoints and their log lines.

A method derives from `TrainerX` and defines `build_model` and `forward_backward`.
"""

import datetime
import os
import time
from typing import Any

import numpy as np
import torch
from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils import AverageMeter, MetricMeter, mkdir_if_missing
from tqdm import tqdm
from yacs.config import CfgNode

from .base import Names, TrainerBase

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX"]


class SimpleTrainer(TrainerBase):
    """Data, evaluation and checkpoints as configured; subclasses define `build_model` and `run_epoch`.

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
        """Override to reject a configuration that the method cannot run with, before anything is loaded."""

    def build_data_loader(self) -> None:
        """Set `dm`, the loaders, the number of classes and their names."""
        self.dm = DataManager(self.cfg)
        self.train_loader_x = self.dm.train_loader_x
        self.train_loader_u = self.dm.train_loader_u
        self.val_loader = self.dm.val_loader
        self.test_loader = self.dm.test_loader
        self.num_classes = self.dm.num_classes
        self.num_source_domains = self.dm.num_source_domains
        self.lab2cname = self.dm.lab2cname

    def build_model(self) -> None:
        """Set `model` and register its trainable modules."""
        raise NotImplementedError(f"{type(self).__name__} does not define build_model()")

    def train(self) -> None:
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.output_dir)
        writer_dir = os.path.join(self.output_dir, "tensorboard")
        mkdir_if_missing(writer_dir)
        self.init_writer(writer_dir)
        self.time_start = time.perf_counter()

    def after_train(self) -> None:
        # CoOp's result parser waits for the first line, MaPLe's and PromptSRC's for the second
        print("Finish training\nFinished training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {datetime.timedelta(seconds=round(time.perf_counter() - self.time_start))}")
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
        """Evaluate on "val" (if the dataset has validation images) or "test"; default `TEST.SPLIT`.

        Returns:
            The evaluator's first metric, accuracy in percent.
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
        """The learning rate of the first parameter group of the first (named) model."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]


class TrainerX(SimpleTrainer):
    """Trains on labelled images; `forward_backward` takes one step on a batch and returns the metrics to log."""

    def run_epoch(self) -> None:
        self.set_model_mode("train")
        losses = MetricMeter()
        batch_time = AverageMeter()
        data_time = AverageMeter()
        self.num_batches = len(self.train_loader_x)
        frequency = self.cfg.TRAIN.PRINT_FREQ

        end = time.perf_counter()
        for self.batch_idx, batch in enumerate(self.train_loader_x):  # noqa: B020
            data_time.update(time.perf_counter() - end)
            losses.update(self.forward_backward(batch))
            batch_time.update(time.perf_counter() - end)

            if (self.batch_idx + 1) % frequency == 0 or self.num_batches < frequency:
                remaining = (self.max_epoch - self.epoch) * self.num_batches - self.batch_idx - 1
                eta = datetime.timedelta(seconds=int(batch_time.avg * remaining))
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
            end = time.perf_counter()

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W), labels (B,) and domains (B,) on the device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))
