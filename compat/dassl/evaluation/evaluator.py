"""Accuracy and macro-F1 over a test set."""

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from promptbias.utils.tensor_files import save_tensors

from .build import EVALUATOR_REGISTRY

__all__ = ["EvaluatorBase", "Classification"]


class EvaluatorBase:
    """Collects batches with `process` and computes the metrics in `evaluate`."""

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
    """Accuracy and F1, over all images and per class.

    Args:
        lab2cname: class name of each label, printed with `TEST.PER_CLASS_RESULT`.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any):
        super().__init__(cfg)
        self._lab2cname = lab2cname
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs the class names; pass lab2cname")
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
        """Print the results and return them in percent.

        Returns:
            accuracy (first), error_rate, macro_f1 (the mean over the classes that occur among the labels) and, with
            `TEST.PER_CLASS_RESULT`, perclass_accuracy (the mean over the same classes).

        Raises:
            ValueError: no batch was processed.
        """
        if not self._y_true:
            raise ValueError("there is nothing to evaluate: no batch was processed")
        from sklearn.metrics import accuracy_score, confusion_matrix, f1_score  # takes a second, and only tests need it

        labels = np.unique(self._y_true)
        total, correct = len(self._y_true), int(accuracy_score(self._y_true, self._y_pred, normalize=False))
        accuracy = 100.0 * correct / total
        f1 = float(f1_score(self._y_true, self._y_pred, labels=labels, average="macro", zero_division=0))
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * f1)
        print(
            "=> result\n"
            f"* total: {total:,}\n"
            f"* correct: {correct:,}\n"
            f"* accuracy: {results['accuracy']:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )
        if not (self.cfg.TEST.PER_CLASS_RESULT or self.cfg.TEST.COMPUTE_CMAT):
            return results

        seen = np.union1d(self._y_true, self._y_pred)
        counts = confusion_matrix(self._y_true, self._y_pred, labels=seen)
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._print_per_class(seen, counts)
        if self.cfg.TEST.COMPUTE_CMAT:
            rows = np.maximum(counts.sum(axis=1, keepdims=True), 1)  # a class that is only predicted has a row of zeros
            save_path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
            save_tensors(torch.from_numpy(counts / rows), save_path)
            print(f"Confusion matrix is saved to {save_path}")
        return results

    def _print_per_class(self, seen: np.ndarray, counts: np.ndarray) -> float:
        """Print the accuracy of each class that occurs among the labels; returns their mean in percent.

        Args:
            seen: labels (C,) of the rows and columns of `counts`.
            counts: confusion matrix (C, C), true labels in rows.
        """
        print("=> per-class result")
        recalls = []
        for label, correct, total in zip(seen, counts.diagonal(), counts.sum(axis=1), strict=True):
            if total:
                recalls.append(correct / total)
                print(
                    f"* class: {label} ({self._lab2cname[label]})\ttotal: {total:,}\t"
                    f"correct: {correct:,}\tacc: {100.0 * correct / total:.1f}%"
                )
        mean = 100.0 * float(np.mean(recalls))
        print(f"* average: {mean:.1f}%")
        return mean
