"""What `results.json` and `predictions.csv` hold."""

import os
import platform
from typing import Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_fscore_support

from . import run_folder
from .predictions import Prediction


class PredictedClasses:
    """Collects, batch by batch, which class each image was given."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, logits: torch.Tensor) -> None:
        """Logits (B, K) of the images whose paths were added last."""
        chosen = logits.argmax(dim=1, keepdim=True)
        shares = logits.float().softmax(dim=1).gather(1, chosen)
        self.batches.append((chosen[:, 0], shares[:, 0]))  # they stay on the device, which need not be waited for

    def rows(self, true: list[int], names: dict[int, str], root: str) -> list[Prediction]:
        """One row for each image.

        Args:
            true: (N,) labels in the order in which images were added.
            names: label -> name; two classes may share one.
            root: folder of the datasets.
        """
        shown, root = unique_names(names), os.path.abspath(os.path.expanduser(root))
        chosen, shares = (torch.cat(parts).tolist() for parts in zip(*self.batches))
        return [
            Prediction(os.path.relpath(path, root), shown[label], shown[guess], share)
            for path, label, guess, share in zip(self.paths, true, chosen, shares, strict=True)
        ]


def unique_names(names: dict[int, str]) -> dict[int, str]:
    """Label -> name, where a name that an earlier label has gets its label: ImageNet has two maillots and two cranes.

    >>> unique_names({0: "crane", 1: "dog", 2: "crane"})
    {0: 'crane', 1: 'dog', 2: 'crane (2)'}
    """
    unique: dict[int, str] = {}
    taken: set[str] = set()
    for label in sorted(names):
        shown = names[label]
        while shown in taken:
            shown += f" ({label})"
        unique[label] = shown
        taken.add(shown)
    return unique


def per_class_metrics(true: np.ndarray, predicted: np.ndarray, names: dict[int, str]) -> tuple[dict[str, Any], float]:
    """Accuracy (recall, in %) and count of each class that has test images, by name; and their macro-F1 in %.

    Args:
        true, predicted: (N,) labels.
        names: label -> name; two classes may share one.
    """
    labels = np.unique(true)
    _, recall, f1, count = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    shown = unique_names({int(label): names[int(label)] for label in labels})
    per_class = {
        shown[int(label)]: {"accuracy": 100 * float(share), "count": int(images)}
        for label, share, images in zip(labels, recall, count)
    }
    return per_class, 100 * float(np.mean(f1))


def results(trainer: Any, accuracy: float, seconds: dict[str, float]) -> dict[str, Any]:
    """All that `results.json` says of a tested trainer.

    Args:
        trainer: a TuningTrainer whose evaluator has seen the test set.
        accuracy: in %.
    """
    cfg, dataset = trainer.cfg, trainer.dm.dataset
    true, predicted = np.array(trainer.evaluator._y_true), np.array(trainer.evaluator._y_pred)
    per_class, macro_f1 = per_class_metrics(true, predicted, trainer.lab2cname)
    return {
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "per_class": per_class,
        "classnames": list(dataset.classnames),
        "counts": {
            "train": len(dataset.train_x),
            "test": len(true),
            "classes": trainer.num_classes,
            "trainable_parameters": trainer.model.adapters.trainable_parameters,
        },
        "dataset": cfg.DATASET.NAME,
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "template": trainer.model.template,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "evaluated": trainer.checkpoint_sha256,
        "checkpoint": trainer.checkpoint,
        "seconds": seconds,
        "machine": machine(trainer),
    }


def machine(trainer: Any) -> dict[str, Any]:
    """What could make another machine give another last digit."""
    return {
        "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else platform.processor() or "cpu",
        "precision": trainer.model.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "dassl": "compat" if run_folder.dassl_is_ours() else "upstream",
    }
