"""compat/dassl: the default configuration."""

import os
import subprocess
import sys

from conftest import ROOT
from dassl.config import cfg_default, clean_cfg, get_cfg_default

COMPAT = os.path.join(ROOT, "compat")

FAMILY_YAML = """
DATALOADER:
  TRAIN_X: {BATCH_SIZE: 32, SAMPLER: "RandomSampler", N_DOMAIN: 2, N_INS: 4}
  TRAIN_U: {SAME_AS_X: False}
  TEST: {BATCH_SIZE: 100}
  NUM_WORKERS: 8
INPUT:
  SIZE: (224, 224)
  INTERPOLATION: "bicubic"
  PIXEL_MEAN: [0.48145466, 0.4578275, 0.40821073]
  PIXEL_STD: [0.26862954, 0.26130258, 0.27577711]
  TRANSFORMS: ["random_resized_crop", "random_flip", "normalize"]
OPTIM: {NAME: "sgd", LR: 0.002, MAX_EPOCH: 50, LR_SCHEDULER: "cosine", STEPSIZE: [20, 40],
        WARMUP_EPOCH: 1, WARMUP_TYPE: "constant", WARMUP_CONS_LR: 1e-5}
TRAIN: {PRINT_FREQ: 5, CHECKPOINT_FREQ: 5, COUNT_ITER: "train_u"}
TEST: {FINAL_MODEL: "best_val", PER_CLASS_RESULT: True, COMPUTE_CMAT: True, SPLIT: "val"}
MODEL:
  BACKBONE: {NAME: "ViT-B/16", PRETRAINED: False}
  HEAD: {NAME: "mlp", HIDDEN_LAYERS: [512], DROPOUT: 0.5}
DATASET: {NAME: "PACS", SOURCE_DOMAINS: ["a", "b"], TARGET_DOMAINS: ["c"], NUM_LABELED: 40, VAL_PERCENT: 0.2}
TRAINER:
  FIXMATCH: {STRONG_TRANSFORMS: ["randaugment_fixmatch", "normalize"]}
  DOMAINMIX: {TYPE: "random"}
"""


def loaded_by(module, *names):
    """Which of the named modules an import of `module` loads."""
    code = f"import sys; sys.path.insert(0, {COMPAT!r}); import {module}; print(*({set(names)} & set(sys.modules)))"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()


def test_defaults_that_affect_results():
    optim = get_cfg_default().OPTIM
    assert (optim.MOMENTUM, optim.WEIGHT_DECAY, optim.WARMUP_CONS_LR) == (0.9, 5e-4, 1e-5)
    assert optim.WARMUP_EPOCH < 1 and optim.WARMUP_RECOUNT


def test_a_yaml_of_the_family_merges(tmp_path):
    path = tmp_path / "family.yaml"
    path.write_text(FAMILY_YAML)
    cfg = get_cfg_default()
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(["OPTIM.LR", "0.0025", "DATASET.NUM_SHOTS", "16"])
    assert cfg.INPUT.SIZE == (224, 224) and cfg.OPTIM.STEPSIZE == (20, 40)
    assert cfg.OPTIM.LR == 0.0025 and cfg.DATASET.NUM_SHOTS == 16
    assert cfg.DATALOADER.TRAIN_X.N_INS == 4 and cfg.DATALOADER.TRAIN_U.N_INS == 16


def test_a_copy_leaves_the_defaults_alone():
    cfg = get_cfg_default()
    cfg.OPTIM.LR = 1.0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 7
    assert cfg_default.OPTIM.LR != 1.0 and cfg_default.DATALOADER.TRAIN_X.BATCH_SIZE == 32
    assert cfg.DATALOADER.TRAIN_U.BATCH_SIZE == 32


def test_clean_cfg_leaves_one_trainer():
    cfg = get_cfg_default()
    clean_cfg(cfg, "FixMatch")
    assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


def test_the_configuration_does_not_import_torch():
    assert loaded_by("dassl.config", "torch") == []


def test_the_engine_imports_no_heavy_library():
    assert loaded_by("dassl.engine", "sklearn", "scipy", "tensorboard") == []
