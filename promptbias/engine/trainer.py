"""The Dassl trainer that all tuning methods share; a method adds what it learns (`custom_clip`) and its config node."""

import hashlib
import json
import os
import platform
import random
import sys
import time
from typing import Any

import numpy as np
import torch
import yacs.config
from dassl.config import cfg_default
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor
from tqdm import tqdm

from promptbias.engine import run_folder as run_files
from promptbias.utils import startup
from promptbias.engine.checks import check_values
from promptbias.model.loading import load_clip
from promptbias.utils.errors import UserError
from promptbias.utils.files import checksum, writing
from promptbias.model.tuned_clip import TunedCLIP, device_of


PREFIX = "PromptBias"  # of a trainer's name where its own is taken


def add_config(name: str, **defaults: Any) -> None:
    """Add the node TRAINER.<name> to Dassl's default config, so that no `extend_cfg` has to be edited."""
    node = cfg_default.TRAINER.get(name) or yacs.config.CfgNode()
    for key, value in defaults.items():
        node.setdefault(key, value)
    cfg_default.TRAINER[name] = node


def register(trainer: type[TrainerX]) -> type[TrainerX]:
    """Register a trainer under its own name; where that is taken, under the first free one, and say so."""
    known, name = TRAINER_REGISTRY.registered_names(), trainer.__name__
    free = next(n for n in (name, *(f"{PREFIX}{name}{i}" for i in ("", *range(2, 100)))) if n not in known)
    if free != name:
        print(f'a trainer "{name}" is registered already: ours is "{free}"')
        trainer.__name__ = free
    TRAINER_REGISTRY.register(trainer)
    return trainer


def registered_as(name: str) -> str:
    """The name here of the trainer that some checkout calls `name`."""
    known = TRAINER_REGISTRY.registered_names()
    return next((n for n in (name, name.removeprefix(PREFIX), PREFIX + name) if n in known), name)


def grad_scaler(enabled: bool):
    """CUDA's gradient scaler, wherever this torch keeps it; a disabled one changes nothing."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda", enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


def random_states() -> dict[str, Any]:
    """The state of every random generator that data order and augmentation draw from, as plain data."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """The inverse of `random_states`."""
    version, inner, gauss = states["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def scheduler_state(scheduler) -> dict[str, Any]:
    """A scheduler's state as plain data; Dassl's warm-up holds the live scheduler that follows it, whose state goes in."""
    plain = (int, float, str, list, dict, type(None))
    state = {key: value for key, value in vars(scheduler).items() if isinstance(value, plain)}
    if hasattr(scheduler, "successor"):
        state["successor"] = scheduler_state(scheduler.successor)
    return state


def set_scheduler_state(scheduler, state: dict[str, Any]) -> None:
    """The inverse of `scheduler_state`."""
    vars(scheduler).update({key: value for key, value in state.items() if key != "successor"})
    if "successor" in state:
        set_scheduler_state(scheduler.successor, state["successor"])


class TuningTrainer(TrainerX):
    """Trains what `custom_clip` learns, with the frozen CLIP around it.

    Only the learner is registered with Dassl, so checkpoints hold only what was learned. What resuming needs besides
    (optimizer, scheduler, random states) is kept in a file beside them, renewed after every epoch.

    Attributes:
        custom_clip: the method's `CustomCLIP(cfg, classnames, clip_model)`.
        node: its config node, TRAINER.<node>.
        learner_name: the folder of its checkpoints.
    """

    custom_clip: type[TunedCLIP]
    node: str
    learner_name = "learner"
    trains = False
    evaluated: str | None = None  # checksum of the checkpoint that is tested, where nothing is trained
    seconds_to_first_step = 0.0

    def check_cfg(self, cfg) -> None:
        check_values(cfg)

    def build_model(self) -> None:
        cfg = self.cfg
        self.model = self.custom_clip(cfg, self.dm.dataset.classnames, load_clip(cfg.MODEL.BACKBONE.NAME))
        self.model.to(self.device)
        learner = self.model.learner
        count = sum(p.numel() for p in learner.parameters())
        print(
            f'CLIP {cfg.MODEL.BACKBONE.NAME} in {self.model.precision}; text: "{self.model.template}"; '
            f"{count:,} learned parameters"
        )
        self.optim = build_optimizer(learner, cfg.OPTIM) if count else None
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM) if count else None
        self.register_model(self.learner_name, learner, self.optim, self.sched)
        amp = self.model.precision == "amp" and device_of(cfg) == "cuda"
        self.scaler = grad_scaler(amp)
        if cfg.MODEL.INIT_WEIGHTS:
            self.load_state(run_files.load(cfg.MODEL.INIT_WEIGHTS), cfg.MODEL.INIT_WEIGHTS)

    # Training

    def before_train(self) -> None:
        run_files.write_config(self.cfg, self.output_dir)
        self.trains = True
        self.seconds_before = 0.0
        super().before_train()
        run_files.remove_results(self.output_dir)
        if 0 < self.max_epoch <= self.start_epoch:  # nothing is left to train, but the checkpoint may lie elsewhere
            self.save_model(self.max_epoch - 1, self.output_dir)
        total = (self.max_epoch - self.start_epoch) * len(self.train_loader_x)
        # Dassl's log lines already show the progress on a terminal; the bar is for when they go elsewhere.
        self.bar = tqdm(
            total=total,
            desc=self.output_dir,
            unit="step",
            dynamic_ncols=True,
            disable=True if sys.__stdout__.isatty() or not total else None,
        )

    def before_epoch(self) -> None:
        self.losses: list[Tensor] = []
        self.reported = 0

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    parse_batch_test = parse_batch_train

    def forward_backward(self, batch) -> dict[str, float]:
        image, label = self.parse_batch_train(batch)
        loss = self.model(image, label)
        self.optim.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optim)
        self.scaler.update()
        self.losses.append(loss.detach())
        self.seconds_to_first_step = self.seconds_to_first_step or time.time() - startup.STARTED
        self.bar.update()
        done, last = self.batch_idx + 1, self.batch_idx + 1 == self.num_batches
        summary = {}
        # Reading a loss waits for the device, so it is read only when Dassl prints it.
        if last or done % self.cfg.TRAIN.PRINT_FREQ == 0 or self.num_batches < self.cfg.TRAIN.PRINT_FREQ:
            summary = {"loss": self.mean_loss()}
            self.bar.set_postfix(summary)
        if last:
            self.update_lr()
        return summary

    def mean_loss(self) -> float:
        """Mean loss of the steps of this epoch since it was last asked for; NaN if there is none.

        Raises:
            UserError: one of them is not finite; the checkpoint of the last good epoch stays.
        """
        losses = torch.stack(self.losses[self.reported :]).tolist() if self.reported < len(self.losses) else []
        for step, loss in enumerate(losses, self.reported + 1):
            if not np.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {step} of epoch {self.epoch + 1}; "
                    "the last good checkpoint is kept; lower OPTIM.LR or use PREC fp32"
                )
        self.reported = len(self.losses)
        return float(np.mean(losses)) if losses else float("nan")

    def after_epoch(self) -> None:
        self.mean_loss()  # refuses what is not finite: some samplers draw fewer batches than they announce
        super().after_epoch()
        if self.optim is not None:
            self.save_training_state()

    def after_train(self) -> None:
        self.bar.close()
        super().after_train()

    # Testing

    def model_inference(self, image: Tensor) -> Tensor:
        return self.model(image)

    def test(self, split: str | None = None) -> float:
        """Test, and write `results.json` (all but the rounds on the validation set during training).

        Returns:
            Accuracy in percent.

        Raises:
            UserError: the folder holds a run with another config; or a training run, and this one only tests.
        """
        if split is None:
            if self.evaluated:
                run_files.refuse_training_run(self.output_dir)
            run_files.write_config(self.cfg, self.output_dir)
        started, trained = time.time(), self.seconds_trained()
        accuracy = super().test(split)
        if split is None:
            seconds = {"first_step": self.seconds_to_first_step, "train": trained, "test": time.time() - started}
            seconds = {what: round(value, 2) for what, value in seconds.items()}
            run_files.write_results(self.results(accuracy, seconds), self.output_dir)
        return accuracy

    def results(self, accuracy: float, seconds: dict[str, float]) -> dict[str, Any]:
        """All that `results.json` holds."""
        cfg = self.cfg
        true, predicted = np.array(self.evaluator._y_true), np.array(self.evaluator._y_pred)
        per_class, f1 = {}, []
        for label in np.unique(true):
            hits = int(((true == label) & (predicted == label)).sum())
            count, called = int((true == label).sum()), int((predicted == label).sum())
            name = self.lab2cname[int(label)]
            name += f" ({label})" if name in per_class else ""  # ImageNet has two maillots and two cranes
            per_class[name] = {"accuracy": 100 * hits / count, "count": count}
            f1.append(2 * hits / (count + called))
        return {
            "accuracy": accuracy,
            "macro_f1": 100 * float(np.mean(f1)),
            "per_class": per_class,
            "counts": {
                "train": len(self.dm.dataset.train_x),
                "test": len(true),
                "classes": self.num_classes,
                "learned": sum(p.numel() for p in self.model.learner.parameters()),
            },
            "dataset": cfg.DATASET.NAME,
            "trainer": cfg.TRAINER.NAME,
            "backbone": cfg.MODEL.BACKBONE.NAME,
            "template": self.model.template,
            "shots": cfg.DATASET.NUM_SHOTS,
            "seed": cfg.SEED,
            "evaluated": self.evaluated,
            "seconds": seconds,
            # What could make another machine give another last digit.
            "machine": {
                "device": torch.cuda.get_device_name() if self.device.type == "cuda" else platform.processor() or "cpu",
                "precision": self.model.precision,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "dassl": "compat" if run_files.dassl_is_ours() else "upstream",
            },
        }

    def seconds_trained(self) -> float:
        """Seconds since training began, those before an interruption included; 0 if this run only tests."""
        started = getattr(self, "time_start", None)
        return 0.0 if started is None else self.seconds_before + time.time() - started

    # Checkpoints

    def about(self) -> dict[str, Any]:
        """What a checkpoint has to agree with to be loaded. A weights file may lie somewhere else by then."""
        backbone, node = self.cfg.MODEL.BACKBONE.NAME, self.cfg.TRAINER[self.node]
        named = {} if os.path.exists(backbone) else {"MODEL.BACKBONE.NAME": backbone}
        meant = [
            key for key in node if key not in ("PREC", "INIT_STD") and node[key] != -1
        ]  # -1: as many as there are blocks
        return {**named, **{f"TRAINER.{self.node}.{key}": node[key] for key in meant}}

    def checkpoint(self, epoch: int, val_result: float | None = None) -> dict[str, Any]:
        """What is learned after epoch `epoch` (from 0), in Dassl's form."""
        return {
            "state_dict": self.model.learner.state_dict(),
            "epoch": epoch + 1,
            "optimizer": None,
            "scheduler": None,
            "val_result": val_result,
            "about": self.about(),
        }

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name="") -> None:
        """As in Dassl: <directory>/<learner_name>/model.pth.tar-<epoch>, and its name in the file `checkpoint`."""
        folder = os.path.join(directory, self.learner_name)
        name = model_name or f"model.pth.tar-{epoch + 1}"
        checkpoint = self.checkpoint(epoch, val_result)
        run_files.save(checkpoint, os.path.join(folder, name))
        if is_best:
            run_files.save(checkpoint, os.path.join(folder, "model-best.pth.tar"))
        with writing(os.path.join(folder, "checkpoint")) as file:
            file.write(name + "\n")
        print(f"Checkpoint saved to {os.path.join(folder, name)}")

    def save_training_state(self) -> None:
        state = self.checkpoint(self.epoch)
        state.update(
            data=self.data_drawn(),
            optimizer=self.optim.state_dict(),
            scheduler=scheduler_state(self.sched),
            scaler=self.scaler.state_dict(),
            random=random_states(),
            best_result=float(self.best_result),
            seconds=self.seconds_trained(),
        )
        run_files.save(state, os.path.join(self.output_dir, self.learner_name, run_files.STATE))

    def data_drawn(self) -> str:
        """Checksum of classes and training images, which have to be the same when a run goes on."""
        items = self.dm.dataset.train_x
        root = os.path.expanduser(self.cfg.DATASET.ROOT) or "."
        rows = sorted([os.path.relpath(item.impath, root), item.label, item.classname] for item in items)
        return hashlib.sha256(json.dumps([self.dm.dataset.classnames, rows]).encode()).hexdigest()

    def resume_model_if_exist(self, directory: str) -> int:
        """Go on from the last finished epoch of the run in `directory`, to the same end to the last bit.

        Returns:
            The epoch to start with (from 0).
        """
        path = os.path.join(directory, self.learner_name, run_files.STATE)
        elsewhere = os.path.realpath(directory) != os.path.realpath(self.output_dir)
        if self.optim is None or not os.path.exists(path):
            if self.optim is not None and elsewhere:
                raise UserError(f"there is nothing to go on with in {directory} ({path} is missing); check --resume")
            return 0
        state = run_files.load(path)
        if "random" not in state:
            raise UserError(f"{path} is no training state; remove it to train from the start")
        self.load_state(state, path)
        if state.get("data") not in (None, self.data_drawn()):
            raise UserError(
                f"{directory} holds a run that began with other classes or training images; "
                "choose another output folder, or remove that one"
            )
        self.optim.load_state_dict(state["optimizer"])
        set_scheduler_state(self.sched, state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.best_result, self.seconds_before = state["best_result"], state["seconds"]
        set_random_states(state["random"])
        best = os.path.join(self.learner_name, "model-best.pth.tar")
        if elsewhere and os.path.exists(os.path.join(directory, best)):
            run_files.save(run_files.load(os.path.join(directory, best)), os.path.join(self.output_dir, best))
        print(f"Going on from {path} after epoch {state['epoch']}")
        return state["epoch"]

    @classmethod
    def checkpoint_in(cls, directory: str, epoch: int | None = None) -> str:
        """The file with what was learned in the run in `directory`: epoch `epoch`, or the best, or the last.

        Raises:
            UserError: no directory is named, or it holds no such checkpoint.
        """
        if not directory:
            raise UserError("--eval-only needs --model-dir, the output folder of a training run")
        folder = os.path.join(directory, cls.learner_name)
        name = f"model.pth.tar-{epoch}" if epoch is not None else "model-best.pth.tar"
        if epoch is None and not os.path.exists(os.path.join(folder, name)):
            pointer = os.path.join(folder, "checkpoint")
            if not os.path.exists(pointer):
                raise UserError(f"{directory} holds no trained {cls.__name__} ({pointer} is missing); train first")
            with open(pointer, encoding="utf-8") as file:
                name = file.read().strip()
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            raise UserError(f"there is no checkpoint {path}; train first, or check --model-dir and --load-epoch")
        return path

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load what was learned in the run in `directory`; see `checkpoint_in`.

        Raises:
            UserError: no such checkpoint, or it is damaged, or it belongs to another model.
        """
        path = self.checkpoint_in(directory, epoch)
        self.load_state(run_files.load(path), path)
        if not self.trains:
            self.evaluated = checksum(path)
        print(f"Loaded {path}")

    def load_state(self, checkpoint: dict[str, Any], path: str) -> None:
        """Put a checkpoint's parameters into the learner.

        Raises:
            UserError: it belongs to another trainer, backbone or configuration; says in what they differ.
        """
        wanted = self.about()
        for key, value in checkpoint.get("about", {}).items():
            if wanted.get(key, value) != value:
                raise UserError(
                    f"{path} was made with {key} {value!r}, but this run has {wanted[key]!r}; set it to {value!r}"
                )
        state, learner = self.convert(checkpoint["state_dict"]), self.model.learner.state_dict()
        if learner and not set(state) & set(learner):
            raise UserError(f"{path} was not made by {type(self).__name__}: it has no {next(iter(learner))}")
        for key in {**state, **learner}:
            found, needed = (tuple(s[key].shape) if key in s else None for s in (state, learner))
            if found != needed:
                raise UserError(
                    f"{path} has {key} of shape {found}, but this model needs {needed}; "
                    f"compare depth and context length in TRAINER.{self.node}"
                )
        self.model.learner.load_state_dict(state)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint of the same method by other code, as the learner's state; ours pass as they are."""
        return state
