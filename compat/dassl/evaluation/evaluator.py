"""Accuracy and macro-F1 over a test set."""

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from .build import EVALUATOR_REGISTRY

__all__ = ["EvaluatorBase", "Classification"]


class EvaluatorBase:
    """Collects batches by `process` and sums them up in `evaluate`."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def reset(self) -> None:
        raise NotImplementedError

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Percentages of correct labels, over all images and by class.

    Args:
        lab2cname: class name of each label, for the lines that `TEST.PER_CLASS_RESULT` asks for.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any):
        super().__init__(cfg)
        self._lab2cname = lab2cname
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs the names of the classes")
        self.reset()

    def reset(self) -> None:
        self._y_true = []
        self._y_pred = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add a batch.

        Args:
            mo: scores (B, K).
            gt: labels (B,).
        """
        self._y_true += gt.tolist()
        self._y_pred += mo.argmax(dim=1).tolist()

    def evaluate(self) -> dict[str, float]:
        """Print the result and return it in percent: accuracy (first), error_rate, macro_f1, and perclass_accuracy
        (the mean over classes) where `TEST.PER_CLASS_RESULT` asks for it. The mean F1 is over classes that occur
        among the labels.

        Raises:
            ValueError: nothing was processed.
        """
        if not self._y_true:
            raise ValueError("there is nothing to evaluate: no batch was processed")
        true, pred = np.array(self._y_true), np.array(self._y_pred)
        size = max(true.max(), pred.max()) + 1
        counts = np.bincount(true * size + pred, minlength=size * size).reshape(size, size)  # label, prediction
        correct, total = counts.diagonal(), counts.sum(axis=1)
        labels = np.flatnonzero(total)
        f1 = 2 * correct / np.maximum(total + counts.sum(axis=0), 1)

        acc = 100.0 * float(correct.sum()) / len(true)
        results = OrderedDict(accuracy=acc, error_rate=100.0 - acc, macro_f1=100.0 * float(f1[labels].mean()))
        print(
            "=> result\n"
            f"* total: {len(true):,}\n"
            f"* correct: {correct.sum():,}\n"
            f"* accuracy: {results['accuracy']:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )

        if self.cfg.TEST.PER_CLASS_RESULT:
            print("=> per-class result")
            for label in labels:
                print(
                    f"* class: {label} ({self._lab2cname[label]})\ttotal: {total[label]:,}\t"
                    f"correct: {correct[label]:,}\tacc: {100.0 * correct[label] / total[label]:.1f}%"
                )
            results["perclass_accuracy"] = 100.0 * float((correct[labels] / total[labels]).mean())
            print(f"* average: {results['perclass_accuracy']:.1f}%")

        if self.cfg.TEST.COMPUTE_CMAT:
            seen = np.union1d(true, pred)
            shares = counts[np.ix_(seen, seen)] / np.maximum(total[seen, None], 1)
            save_path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
            torch.save(torch.from_numpy(shares), save_path)
            print(f"Confusion matrix is saved to {save_path}")

        return results
