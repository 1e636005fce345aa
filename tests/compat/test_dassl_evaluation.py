"""compat/dassl: evaluation results and metrics."""

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.evaluation import build_evaluator
from dassl.metrics import compute_accuracy


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


def test_results_against_independent_counts(cfg, capsys, tmp_path):
    cfg.merge_from_list(["TEST.PER_CLASS_RESULT", True, "TEST.COMPUTE_CMAT", True])
    names = {i: f"class {i}" for i in range(6)}
    evaluator = build_evaluator(cfg, lab2cname=names)
    torch.manual_seed(0)
    true, scores = torch.randint(0, 5, (97,)), torch.randn(97, 6)  # class 5 never occurs, yet is predicted
    evaluator.reset()
    for start in range(0, 97, 20):
        evaluator.process(scores[start : start + 20], true[start : start + 20])
    results = evaluator.evaluate()
    pairs = list(zip(true.tolist(), scores.argmax(1).tolist()))
    hits = sum(t == p for t, p in pairs)
    f1, recall = [], []
    for c in range(5):
        both = sum(t == p == c for t, p in pairs)
        f1.append(2 * both / (sum(t == c for t, _ in pairs) + sum(p == c for _, p in pairs)))
        recall.append(both / sum(t == c for t, _ in pairs))
    assert next(iter(results)) == "accuracy"
    assert results == pytest.approx(
        {
            "accuracy": 100 * hits / 97,
            "error_rate": 100 - 100 * hits / 97,
            "macro_f1": 100 * np.mean(f1),
            "perclass_accuracy": 100 * np.mean(recall),
        }
    )
    out = capsys.readouterr().out
    assert f"=> result\n* total: 97\n* correct: {hits}\n* accuracy: {100 * hits / 97:.1f}%\n* error: " in out
    assert f"* macro_f1: {100 * np.mean(f1):.1f}%\n=> per-class result\n* class: 0 (class 0)\ttotal: " in out
    assert "class 5" not in out and f"* average: {100 * np.mean(recall):.1f}%" in out
    shares = torch.load(tmp_path / "cmat.pt", weights_only=True)
    assert shares.shape == (6, 6) and shares.diagonal()[:5].tolist() == pytest.approx(recall)


def test_nothing_to_evaluate(cfg):
    evaluator = build_evaluator(cfg)
    evaluator.reset()
    with pytest.raises(ValueError, match="no batch"):
        evaluator.evaluate()


def test_accuracy_of_a_batch():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 2.0, 1.0]])
    label = torch.tensor([0, 0, 0, 2])
    assert [a.item() for a in compute_accuracy(scores, label, topk=(1, 2, 3))] == [25.0, 50.0, 100.0]
    assert compute_accuracy((scores, None), label)[0].shape == (1,)
