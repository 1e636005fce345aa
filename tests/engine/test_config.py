"""Configs: `_BASE_` in YAML files, where files are looked for, and what the shipped configurations say."""

import glob
import os

import pytest
import yaml
from conftest import ROOT
from yacs.config import CfgNode

from promptbias.engine import config
from promptbias.engine.discovery import register_all
from promptbias.engine.train import parse_args
from promptbias.utils.errors import UserError

TRAINERS = os.path.join(ROOT, "configs", "trainers")
METHOD_FILES = [
    os.path.relpath(path, TRAINERS)
    for path in sorted(glob.glob(os.path.join(TRAINERS, "*", "*.yaml")))
    if not os.path.relpath(path, TRAINERS).startswith("_")
]


@pytest.fixture
def write(tmp_path):
    """write(name, text): a YAML file below tmp_path; returns its path."""

    def make(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return make


@pytest.fixture(scope="module")
def resolved():
    """resolved(method file): its whole config, flattened."""
    register_all()

    def make(name):
        method = name.split(os.sep)[0]
        argv = ["--config-file", os.path.join(TRAINERS, name), "--trainer", method]
        return config.flatten(config.setup_cfg(parse_args(argv)))

    return make


def test_a_base_gives_what_a_file_does_not_say(write):
    write("_base_/a.yaml", "OPTIM: {LR: 1, NAME: sgd}\nINPUT:\n  SIZE: (2, 2)\n")
    path = write("m/b.yaml", '_BASE_: "../_base_/a.yaml"\nOPTIM: {LR: 2}\nTRAINER: {X: {Y: 1}}\n')
    assert config.read_yaml(path) == {
        "OPTIM": {"LR": 2, "NAME": "sgd"},
        "INPUT": {"SIZE": "(2, 2)"},
        "TRAINER": {"X": {"Y": 1}},
    }


def test_bases_have_bases_and_of_several_the_last_wins(write, monkeypatch, tmp_path):
    write("root.yaml", "A: {x: 0, y: 0, z: 0, list: [1, 2]}\n")
    write("one.yaml", "_BASE_: root.yaml\nA: {x: 1, y: 1, list: [3]}\n")
    write("two.yaml", "A: {y: 2}\n")
    path = write("top.yaml", "_BASE_: [one.yaml, two.yaml]\n")
    expected = {"A": {"x": 1, "y": 2, "z": 0, "list": [3]}}
    assert config.read_yaml(path) == expected
    monkeypatch.chdir(tmp_path / "..")  # relative to the file, not to the working folder
    assert config.read_yaml(os.path.join(tmp_path.name, "top.yaml")) == expected


def test_two_files_may_share_a_base(write):
    write("root.yaml", "A: 0\nB: 0\n")
    write("one.yaml", "_BASE_: root.yaml\nA: 1\n")
    assert config.read_yaml(write("top.yaml", "_BASE_: [one.yaml, root.yaml]\n")) == {"A": 0, "B": 0}


@pytest.mark.parametrize(
    "text, said",
    [
        ("_BASE_: nothing.yaml", "_BASE_ names nothing.yaml, but there is no file .*nothing.yaml"),
        ("_BASE_: 3", "_BASE_ is 3, but must be the path"),
        ("_BASE_: {a: b}", "must be the path"),
        ("_BASE_: [other.yaml, 1]", "must be the path"),
        ("_BASE_: ''", "must be the path"),
        ("_BASE_: top.yaml", r"is its own base \(top.yaml -> top.yaml\)"),
        ("_BASE_: other.yaml", r"is its own base \(top.yaml -> other.yaml -> top.yaml\)"),
    ],
)
def test_a_base_that_cannot_be_is_one_sentence(write, text, said):
    write("other.yaml", "_BASE_: top.yaml\n")
    with pytest.raises(UserError, match=said) as refused:
        config.read_yaml(write("top.yaml", text))
    assert "\n" not in str(refused.value)


def test_a_damaged_base_is_named(write):
    write("base.yaml", "A:\n\tB: 1\n")
    with pytest.raises(UserError, match=r"base.yaml is not YAML: .* in line 2"):
        config.read_yaml(write("top.yaml", "_BASE_: base.yaml\n"))


def test_an_unknown_key_of_a_base_is_one_sentence(write):
    from dassl.config import get_cfg_default

    write("base.yaml", "OPTIM: {LRR: 1}\n")
    with pytest.raises(UserError, match='top.yaml: there is no config key OPTIM.LRR: did you mean "OPTIM.LR"'):
        config.merge_file(get_cfg_default(), write("top.yaml", "_BASE_: base.yaml\n"))


def test_another_checkouts_own_train_py_reads_our_files(write):
    """It knows `cfg.merge_from_file` only, and adds nodes of yacs' own class."""
    defaults = CfgNode({"OPTIM": {"LR": 0.0, "NAME": "adam"}, "SIZE": (1, 1)})
    config.enable_base_files(defaults)
    cfg = defaults.clone()  # as get_cfg_default() does
    cfg.TRAINER = CfgNode()
    cfg.TRAINER.OURS = CfgNode({"DEPTH": 1, "PREC": "auto"})
    write("base.yaml", "OPTIM: {LR: 1e-5, NAME: sgd}\nSIZE: (2, 2)\n")
    cfg.merge_from_file(write("top.yaml", "_BASE_: base.yaml\nTRAINER: {OURS: {DEPTH: 3}}\n"))
    assert cfg.OPTIM.LR == 1e-5 and cfg.OPTIM.NAME == "sgd" and cfg.SIZE == (2, 2)
    assert dict(cfg.TRAINER.OURS) == {"DEPTH": 3, "PREC": "auto"}
    cfg.merge_from_list(["TRAINER.OURS.DEPTH", "4"])
    cfg.merge_from_other_cfg(CfgNode({"OPTIM": {"LR": 2.0}}))
    assert cfg.TRAINER.OURS.DEPTH == 4 and cfg.OPTIM.LR == 2.0
    assert yaml.safe_load(cfg.dump())["OPTIM"] == {"LR": 2.0, "NAME": "sgd"}
    assert not isinstance(CfgNode(), config.ConfigNode)  # nothing else has changed


def test_dassls_defaults_read_our_files():
    from dassl.config import cfg_default

    register_all()
    cfg = cfg_default.clone()
    config.enable_base_files(cfg)
    cfg.clone().merge_from_file(os.path.join(TRAINERS, "IVLP", "vit_b16_shallow.yaml"))
    cfg.merge_from_file(os.path.join(TRAINERS, "IVLP", "tiny_shallow.yaml"))
    assert cfg.MODEL.BACKBONE.NAME == "tiny" and cfg.TRAINER.IVLP.PROMPT_DEPTH_TEXT == 1


def test_a_config_path_is_relative_to_the_working_folder_or_to_the_package(write, monkeypatch, tmp_path):
    path = os.path.join("configs", "trainers", "BiasTuning", "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    assert os.path.samefile(config.find_file(path), os.path.join(ROOT, path))
    own = write(path, "OPTIM: {LR: 3}\n")
    assert os.path.samefile(config.find_file(path), own)
    with pytest.raises(UserError, match='did you mean "tiny.yaml"'):
        config.find_file(os.path.join("configs", "trainers", "BiasTuning", "tinny.yaml"))
    with pytest.raises(UserError, match="nowhere holds no YAML file"):
        config.find_file(os.path.join("nowhere", "tiny.yaml"))


def test_the_familys_own_files_merge(write):
    """As CoOp writes them, without a base."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    config.merge_file(
        cfg,
        write(
            "vit_b16_ep50.yaml",
            'DATALOADER:\n  TRAIN_X:\n    BATCH_SIZE: 32\nINPUT:\n  SIZE: (224, 224)\n  INTERPOLATION: "bicubic"\n'
            'OPTIM:\n  NAME: "sgd"\n  LR: 0.002\n  WARMUP_CONS_LR: 1e-5\nMODEL:\n  BACKBONE:\n    NAME: "ViT-B/16"\n',
        ),
    )
    assert cfg.INPUT.SIZE == (224, 224) and cfg.OPTIM.WARMUP_CONS_LR == 1e-5 and cfg.DATALOADER.TRAIN_X.BATCH_SIZE == 32


# The properties of the shipped configurations: the paper's setting, and what the tiny CLIP changes.


@pytest.mark.parametrize("name", METHOD_FILES)
def test_every_configuration_resolves(resolved, name):
    cfg = resolved(name)
    tiny = os.path.basename(name).startswith("tiny")
    assert cfg["MODEL.BACKBONE.NAME"] == ("tiny" if tiny else "ViT-B/16")
    assert cfg["INPUT.SIZE"] == ((64, 64) if tiny else (224, 224)) and cfg["INPUT.INTERPOLATION"] == "bicubic"
    assert ("random_flip" in cfg["INPUT.TRANSFORMS"]) != tiny and cfg["INPUT.PIXEL_MEAN"][0] == 0.48145466
    assert cfg["DATALOADER.TEST.BATCH_SIZE"] == 100
    method = name.split(os.sep)[0]
    if tiny:
        assert cfg[f"TRAINER.{method.upper()}.PREC"] == "fp32"
    if method in ("BiasTuning", "IVLP", "LNTuning", "VPT"):
        assert cfg["DATALOADER.TRAIN_X.BATCH_SIZE"] == 32
        warmup = [cfg[f"OPTIM.{key}"] for key in ("WARMUP_EPOCH", "WARMUP_TYPE", "WARMUP_CONS_LR")]
        assert (cfg["OPTIM.NAME"], cfg["OPTIM.LR_SCHEDULER"], *warmup) == ("sgd", "cosine", 1, "constant", 1e-5)
        assert tiny or (cfg["OPTIM.MAX_EPOCH"], cfg["OPTIM.LR"]) == (10, 0.0025)


@pytest.mark.parametrize(
    "name, batch, optimizer, rate, decay, epochs",
    [
        ("TextContext/vit_b16.yaml", 32, "sgd", 0.002, 5e-4, 200),
        ("CLIPFit/vit_b16.yaml", 32, "sgd", 0.002, 5e-4, 100),
        ("LoRA/vit_b16.yaml", 32, "adamw", 2e-4, 0.01, 160),
        ("ProLIP/vit_b16.yaml", 1600, "adam", 1e-5, 2 / 16, 300),
    ],
)
def test_settings_of_other_papers(resolved, name, batch, optimizer, rate, decay, epochs):
    cfg = resolved(name)
    found = (cfg["DATALOADER.TRAIN_X.BATCH_SIZE"], *(cfg[f"OPTIM.{key}"] for key in ("NAME", "LR", "WEIGHT_DECAY")))
    assert (*found, cfg["OPTIM.MAX_EPOCH"], cfg["OPTIM.LR_SCHEDULER"]) == (
        batch,
        optimizer,
        rate,
        decay,
        epochs,
        "cosine",
    )


def test_learning_rates_on_the_tiny_clip(resolved):
    assert resolved("BiasTuning/tiny.yaml")["OPTIM.LR"] == 1.0
    assert {resolved(name)["OPTIM.LR"] for name in METHOD_FILES if name.startswith("IVLP/tiny")} == {0.05}


@pytest.mark.parametrize(
    "name, number, words, depth",
    [
        ("prompt", 1, "a photo of a", 12),
        ("shallow", 4, "a photo of a", 1),
        ("deep", 4, "a photo of a", 12),
        ("optimal", 10, "", 12),
    ],
)
@pytest.mark.parametrize("backbone", ["vit_b16", "tiny"])
def test_prompts_of_each_configuration(resolved, backbone, name, number, words, depth):
    cfg = resolved(f"IVLP/{backbone}_{name}.yaml")
    keys = ("N_CTX_VISION", "N_CTX_TEXT", "CTX_INIT", "PROMPT_DEPTH_VISION", "PROMPT_DEPTH_TEXT")
    assert [cfg[f"TRAINER.IVLP.{key}"] for key in keys] == [number, number, words, depth, depth]


def test_the_zero_shot_baseline_needs_no_optimizer():
    for backbone in ("tiny", "vit_b16"):
        assert "OPTIM" not in config.read_yaml(os.path.join(TRAINERS, "ZeroshotCLIP", backbone + ".yaml"))
