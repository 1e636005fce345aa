"""What `results.json` holds."""

import platform
from typing import Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_fscore_support

from . import run_folder


def per_class_metrics(true: np.ndarray, predicted: np.ndarray, names: dict[int, str]) -> tuple[dict[str, Any], float]:
    """Accuracy (recall, in %) and count of each class that has test images, by name; and their macro-F1 in %.

    Args:
        true, predicted: (N,) labels.
        names: label -> name; two classes may share one.
    """
    labels = np.unique(true)
    _, recall, f1, count = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    per_class: dict[str, Any] = {}
    for label, share, images in zip(labels, recall, count):
        name = names[int(label)]
        name += f" ({label})" if name in per_class else ""  # ImageNet has two maillots and two cranes
        per_class[name] = {"accuracy": 100 * float(share), "count": int(images)}
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
