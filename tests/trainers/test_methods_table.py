"""`promptbias methods`: what every method says of itself."""

import subprocess
import sys

import pytest
from conftest import ROOT

from promptbias import methods_table


def test_a_row_for_each_method():
    table = {row[0]: dict(zip(methods_table.HEADERS, row, strict=True)) for row in methods_table.rows("tiny")}
    costs = {name: row["extra cost in inference"] for name, row in table.items()}
    assert costs["IVLP"] == costs["VPT"] == "4 more tokens than 65 in 12 blocks"
    assert {costs[name] for name in ("BiasTuning", "LoRA", "CLIPFit", "TextContext", "ZeroshotCLIP")} == {"none"}
    folds = {name for name, row in table.items() if row["folds"] == "yes"}
    assert {"BiasTuning", "LNTuning", "LoRA", "CLIPFit", "ProLIP"} <= folds and not folds & {
        "IVLP",
        "VPT",
        "TextContext",
    }
    where = {name: row["attaches to"] for name, row in table.items()}
    assert where["LoRA"] == "attn.q, attn.k, attn.v" and where["ProLIP"] == "vision: proj"
    assert where["CLIPFit"] == "vision: ln_*.weight, ln_*.bias; text: resid_post" and where["ZeroshotCLIP"] == "-"
    assert table["CLIPFit"]["options (TRAINER.<node>.)"] == "CONSISTENCY=8.0 CONSISTENCY_OF=('text',)"
    assert "CONSISTENCY" not in table["LoRA"]["options (TRAINER.<node>.)"]


@pytest.mark.slow
def test_parameters_are_counted_on_vit_b16_without_its_weights():
    command = [sys.executable, "-m", "promptbias", "methods"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = dict(line.split()[:2] for line in done.stdout.splitlines() if line[:1].isalpha())
    assert counts["BiasTuning"] == "15,360" and counts["LoRA"] == "184,320"  # the paper's, and CLIP-LoRA's 0.18 M
    assert counts["ProLIP"] == f"{768 * 512:,}" and counts["VPT"] == f"{12 * 4 * 768:,}"
