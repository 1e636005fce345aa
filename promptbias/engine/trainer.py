"""The Dassl trainer that all tuning methods share; a method adds what it trains (`custom_clip`)."""

import os
import sys
import time
from typing import Any, ClassVar

import torch
from dassl.engine import TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor
from tqdm import tqdm

from promptbias.model.loading import load_clip
from promptbias.utils import startup
from promptbias.utils.errors import UserError
from promptbias.utils.files import checksum

from . import checkpoints, distributed, resume, run_folder
from .checks import check_values
from .custom_clip import ConfiguredCLIP, device_of, grad_scaler
from .data import check_reading
from .host_config import with_own_options
from .losses import EpochLosses, refuse_diverged
from .metrics import PredictedClasses, results
from .predictions import write_predictions


class TuningTrainer(TrainerX):
    """Trains the adapters of `custom_clip`, with the frozen CLIP around them.

    Only the adapters are registered with Dassl, so checkpoints hold only what was trained. What resuming needs besides
    (optimizer, scheduler, random states) is kept in a file beside them, renewed after every epoch.

    Attributes:
        custom_clip: the method's `CustomCLIP(cfg, classnames, clip_model)`.
        model_name: the folder of its checkpoints.
        default_config: the configuration that scripts take where none is named, {} for the backbone.
        checkpoint, checkpoint_sha256: what is tested, where nothing is trained: its path, and of its content.
    """

    custom_clip: ClassVar[type[ConfiguredCLIP]]
    model_name = "adapters"
    default_config = "{}"
    is_training = False
    optim: Any
    step: distributed.SharedStep  # where something is trained
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    seconds_to_first_step = 0.0
    started: float | None = None  # when training began

    def __init__(self, cfg: Any) -> None:
        if distributed.launched() and distributed.world() == 1:
            raise UserError(
                "torchrun works with this project's train.py and with `promptbias train`; start another script as one "
                "process"
            )
        super().__init__(with_own_options(cfg, self.custom_clip.config))

    def check_cfg(self, cfg: Any) -> None:
        check_values(cfg)
        check_reading(cfg)

    def build_data_loader(self) -> None:
        with distributed.writer_first():
            super().build_data_loader()
        self.val_loader: Any = distributed.sharded(self.dm.val_loader)
        self.test_loader: Any = distributed.sharded(self.dm.test_loader)

    def build_model(self) -> None:
        cfg = self.cfg
        devices = torch.cuda.device_count() if self.device.type == "cuda" else 1
        if devices > 1:
            print(f"One of {devices} GPUs is used; `torchrun --nproc_per_node {devices} train.py ...` uses them all")
        self.model = self.custom_clip(cfg, self.dm.dataset.classnames, load_clip(cfg.MODEL.BACKBONE.NAME))
        self.model.to(self.device)
        self.predicted = PredictedClasses()
        adapters = self.model.adapters
        count = adapters.trainable_parameters
        print(
            f'CLIP {cfg.MODEL.BACKBONE.NAME} in {self.model.precision}; text: "{self.model.template}"; '
            f"{count:,} trainable parameters"
        )
        for depth in self.model.method.partial_depths(self.model.vision, self.model.text):
            print(f"Note: {depth}")
        self.optim = build_optimizer(adapters, cfg.OPTIM) if count else None
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM) if count else None
        self.register_model(self.model_name, adapters, self.optim, self.sched)
        self.scaler = grad_scaler(self.model.precision == "amp" and device_of(cfg) == "cuda")
        if cfg.MODEL.INIT_WEIGHTS:
            contents = checkpoints.read_checkpoint(cfg.MODEL.INIT_WEIGHTS)
            checkpoints.load_into(self.model, contents, cfg.MODEL.INIT_WEIGHTS, cfg, type(self).__name__)

    # Training

    def train(self) -> None:
        if not self.custom_clip.config.trains:
            self.max_epoch = 0
        super().train()

    def before_train(self) -> None:
        if distributed.is_writer():
            run_folder.write_config(self.cfg, self.output_dir)
        self.is_training = True
        self.seconds_before = 0.0
        super().before_train()
        self.started = time.perf_counter()
        if distributed.is_writer():
            run_folder.remove_results(self.output_dir)
        distributed.agree_on_random_states()
        if self.optim is not None:
            self.step = distributed.SharedStep(self.model)
        if 0 < self.max_epoch <= self.start_epoch:  # nothing is left to train, but the checkpoint may lie elsewhere
            self.save_model(self.max_epoch - 1, self.output_dir)
        total = (self.max_epoch - self.start_epoch) * len(self.train_loader_x)
        # Dassl's log lines already show the progress on a terminal; the bar is for when they go elsewhere.
        console = getattr(sys.stdout, "console", sys.stdout)
        hidden = True if console.isatty() or not total else None
        self.bar = tqdm(total=total, desc=self.output_dir, unit="step", dynamic_ncols=True, disable=hidden)

    def before_epoch(self) -> None:
        self.losses = EpochLosses(self.epoch)

    def init_writer(self, log_dir: str) -> None:
        if distributed.is_writer():
            super().init_writer(log_dir)

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    def loss(self, image: Tensor, label: Tensor) -> Tensor:
        """What is minimised, of a batch of images (B, 3, H, W) and labels (B,)."""
        return self.step.model(image, label)

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        batch, weight = self.step.take(batch)
        image, label = self.parse_batch_train(batch)
        loss = weight * self.loss(image, label)
        self.optim.zero_grad()
        self.step.backward(self.scaler.scale(loss))
        self.scaler.step(self.optim)
        self.scaler.update()
        self.losses.add(loss)
        self.seconds_to_first_step = self.seconds_to_first_step or time.perf_counter() - startup.PROCESS_START
        self.bar.update()
        done, last = self.batch_idx + 1, self.batch_idx + 1 == self.num_batches
        summary = {}
        # Reading a loss waits for the device, so it is read only when Dassl prints it.
        if last or done % self.cfg.TRAIN.PRINT_FREQ == 0 or self.num_batches < self.cfg.TRAIN.PRINT_FREQ:
            summary = {"loss": self.losses.mean_since_last()}
            self.bar.set_postfix(summary)
        if last:
            self.update_lr()
        return summary

    def after_epoch(self) -> None:
        self.losses.mean_since_last()  # refuses what is not finite: some samplers draw fewer batches than they announce
        refuse_diverged(self.model.adapters.state_dict(), self.epoch)
        if not os.path.isdir(self.output_dir or os.curdir):
            raise UserError(f"{self.output_dir} was removed during training; start the run again")
        super().after_epoch()
        if self.optim is not None and distributed.is_writer():
            resume.save_training_state(self)
        distributed.wait_for_all()  # what was written may be read next

    def after_train(self) -> None:
        self.bar.close()
        super().after_train()

    # Testing

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        paths: list[list[str]] = distributed.gather(batch["impath"])
        self.predicted.paths += [path for some in paths for path in some]
        image, label = self.parse_batch_train(batch)
        return image, distributed.gather_rows(label)

    def model_inference(self, image: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W).

        Raises:
            UserError: one of them is not finite, so that it says nothing about the class.
        """
        logits = self.model(image) if len(image) else image.new_zeros(0, self.num_classes)
        logits = distributed.gather_rows(logits)
        if not logits.isfinite().all():
            raise UserError(
                "the logits are not finite; train with a lower OPTIM.LR, or set PREC fp32 if the parameters are large"
            )
        self.predicted.add(logits)
        return logits

    def test(self, split: str | None = None) -> float:
        """Test, and write `predictions.csv` and `results.json` (not in the validation rounds during training).

        Returns:
            Accuracy in percent.

        Raises:
            UserError: the folder holds a run with another config; or a training run, and this one only tests.
        """
        if split is None:
            if self.checkpoint_sha256:
                run_folder.refuse_training_run(self.output_dir)
            if distributed.is_writer():
                run_folder.write_config(self.cfg, self.output_dir)
        started, trained = time.perf_counter(), self.seconds_trained()
        self.predicted = PredictedClasses()
        accuracy = super().test(split)
        if split is None and distributed.is_writer():
            true, root = self.evaluator._y_true, self.cfg.DATASET.ROOT
            write_predictions(self.predicted.rows(true, self.lab2cname, root), self.output_dir)
            seconds = {
                "first_step": self.seconds_to_first_step,
                "train": trained,
                "test": time.perf_counter() - started,
            }
            rounded = {what: round(value, 2) for what, value in seconds.items()}
            run_folder.write_results(results(self, accuracy, rounded), self.output_dir)
        return accuracy

    def seconds_trained(self) -> float:
        """Seconds since training began, those before an interruption included; 0 if this run only tests."""
        return 0.0 if self.started is None else self.seconds_before + time.perf_counter() - self.started

    # Checkpoints

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name="") -> None:
        """As in Dassl: <directory>/<model_name>/model.pth.tar-<epoch>, and its name in the file `checkpoint`."""
        if not distributed.is_writer():
            return
        contents = checkpoints.checkpoint(self.model, self.cfg, epoch, val_result)
        folder = os.path.join(directory, self.model_name)
        name = model_name or f"model.pth.tar-{epoch + 1}"
        print(f"Checkpoint saved to {checkpoints.save_checkpoint(contents, folder, name, is_best)}")

    def resume_model_if_exist(self, directory: str) -> int:
        """Resume after the last finished epoch of the run in `directory`; the result is the same to the last bit.

        Returns:
            The epoch to start with (from 0).
        """
        return resume.resume(self, directory)

    @classmethod
    def checkpoint_in(cls, directory: str, epoch: int | None = None) -> str:
        """The checkpoint of the run in `directory`, "" where the method trains nothing; see `find_checkpoint`."""
        if not cls.custom_clip.config.trains:
            return ""
        return checkpoints.find_checkpoint(directory, cls.model_name, cls.__name__, epoch)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load what was trained in the run in `directory`; see `find_checkpoint`.

        Raises:
            UserError: no such checkpoint, or it is damaged, or it belongs to another model.
        """
        path = self.checkpoint_in(directory, epoch)
        if not path:
            return
        checkpoints.load_into(self.model, checkpoints.read_checkpoint(path), path, self.cfg, type(self).__name__)
        if not self.is_training:
            self.checkpoint, self.checkpoint_sha256 = os.path.abspath(path), checksum(path)
        print(f"Loaded {path}")
