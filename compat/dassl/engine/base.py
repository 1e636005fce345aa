"""Models with their optimizers and learning rate schedules, and the order of events of a training run."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from dassl.utils import CheckpointError, resume_from_checkpoint, save_checkpoint, tolist_if_not
from dassl.utils.torchtools import load_weights
from torch import nn

from .events import EventWriter

__all__ = ["TrainerBase"]

Names = str | Sequence[str] | None


class TrainerBase:
    """Holds models with their optimizers and schedules, and calls the steps of a run in order."""

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
            raise ValueError(f'a model is already registered under the name "{name}"')
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
        """Resume from the last checkpoint in `directory`, if every model has one.

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
            raise CheckpointError(
                f"the models in {directory} stopped at different epochs ({epochs}); delete them and train again"
            )
        return max(epochs.values(), default=0)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load every model's weights of that epoch, or those of the best epoch on the validation set.

        Raises:
            FileNotFoundError: the checkpoint does not exist.
            CheckpointError: it cannot be read, or does not fit.
        """
        if not directory:
            print("No trained model is given, load_model() is skipped")
            return
        model_file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = os.path.join(directory, name, model_file)
            checkpoint = load_weights(self._models[name], path)
            result = checkpoint.get("val_result")  # a number only in the best checkpoint on the validation set
            result = f"{result:.1f}" if isinstance(result, float) else None
            print(f"Load {path} to {name} (epoch={checkpoint.get('epoch')}, val_result={result})")

    # one step

    def model_zero_grad(self, names: Names = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Raises FloatingPointError if the loss is NaN or infinite."""
        if not torch.isfinite(loss).all():
            raise FloatingPointError("the loss is NaN or infinite; try a lower OPTIM.LR or a higher precision")

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
        """Step the learning rate schedules by one epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    # TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Write TensorBoard events to `log_dir`; if TensorBoard is not installed, print so and write none."""
        if self._writer is not None:
            return
        try:
            self._writer = EventWriter(log_dir)
        except ImportError:
            print("No TensorBoard events are written (pip install tensorboard)")
            return
        print(f"Initialize tensorboard (log_dir={log_dir})")

    def close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Does nothing unless `init_writer` was called; a run that only evaluates does not call it."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # the run

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Run epochs `start_epoch` to `max_epoch` - 1; `before_train` may change the start."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        try:
            self.before_train()
            for self.epoch in range(self.start_epoch, self.max_epoch):  # noqa: B020
                self.before_epoch()
                self.run_epoch()
                self.after_epoch()
                if self._writer is not None:
                    self._writer.flush()
            self.after_train()
        finally:
            self.close_writer()

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
