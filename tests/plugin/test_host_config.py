"""Our options in a config whose node of that name somebody else's `extend_cfg` has replaced."""

import os

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from yacs.config import CfgNode

from promptbias.engine.discovery import register_all
from promptbias.engine.host_config import adopt, with_own_options
from promptbias.utils.errors import UserError

register_all()

from dassl.config import cfg_default, get_cfg_default

from promptbias.trainers.ivlp import IVLPConfig
from promptbias.trainers.vpt import VPTConfig

THEIRS = {"PREC": "fp16", "N_CTX_TEXT": 2, "PROMPT_DEPTH_TEXT": 9, "ONLY_THEIRS": 1.0}
VALUES = {"PREC": st.sampled_from(["fp32", "fp16"]), "N_CTX_TEXT": st.integers(1, 9), "N_CTX_VISION": st.integers(1, 9)}
SETTINGS = st.fixed_dictionaries({}, optional=VALUES)


def extended(node="IVLP", **values):
    """Dassl's defaults after another checkout's `extend_cfg`."""
    cfg = get_cfg_default()
    cfg.TRAINER[node] = CfgNode(values)
    cfg.TRAINER.COOP = CfgNode({"N_CTX": 16})
    return cfg


@given(from_file=SETTINGS, from_flags=SETTINGS, frozen=st.booleans())
def test_each_trainer_has_its_own_defaults_and_what_was_merged(from_file, from_flags, frozen):
    cfg = extended(**THEIRS)
    cfg.merge_from_other_cfg(CfgNode({"TRAINER": {"IVLP": from_file, "COOP": {"N_CTX": 4}}}))
    cfg.merge_from_list([w for key, value in from_flags.items() for w in (f"TRAINER.IVLP.{key}", str(value))])
    if frozen:
        cfg.freeze()
    given_ = {**from_file, **from_flags}
    assert dict(cfg.TRAINER.IVLP) == {**THEIRS, **{key: value for key, value in given_.items() if key in THEIRS}}
    ours = with_own_options(cfg.clone(), IVLPConfig)
    assert dict(ours.TRAINER.IVLP) == {**IVLPConfig.options(), **given_}
    assert ours.TRAINER.COOP.N_CTX == 4 and ours.is_frozen() == frozen and with_own_options(ours, IVLPConfig) is ours
    assert dict(cfg.TRAINER.IVLP) != dict(ours.TRAINER.IVLP)  # the copy only


@pytest.mark.parametrize("name", ["IVLP/vit_b16_deep.yaml", "IVLP/vit_b16_optimal.yaml", "VPT/vit_b16_shallow.yaml"])
def test_a_yaml_means_the_same_with_and_without_a_node_of_theirs(name):
    method = {"IVLP": IVLPConfig, "VPT": VPTConfig}[name.split("/")[0]]
    replaced, plain = extended(method.node, PREC="fp16", N_CTX_VISION=2), get_cfg_default()
    for cfg in (replaced, plain):
        cfg.merge_from_file(os.path.join(ROOT, "configs", "trainers", name))
    ours = with_own_options(replaced, method)
    del ours.TRAINER["COOP"]
    assert ours == plain == with_own_options(plain, method)


def test_what_is_set_in_the_code_of_a_checkout_counts_where_the_node_is_ours():
    cfg = get_cfg_default()
    cfg.TRAINER.IVLP.PREC = "bf16"
    assert with_own_options(cfg, IVLPConfig).TRAINER.IVLP.PREC == "bf16"


def test_an_option_of_theirs_that_we_do_not_have_is_refused_only_for_our_trainer():
    cfg = extended("VPT", N_CTX_VISION=2)
    cfg.merge_from_list(["TRAINER.VPT.N_CTX_VISION", "4"])
    assert cfg.TRAINER.VPT.N_CTX_VISION == 4
    with pytest.raises(UserError, match="TRAINER.VPT.N_CTX_VISION .* ours has .*DEPTH_VISION, N_CTX, PREC"):
        with_own_options(cfg, VPTConfig)


def test_a_value_of_another_type_is_one_sentence():
    cfg = extended(PREC=16)
    cfg.merge_from_list(["TRAINER.IVLP.PREC", "32"])
    with pytest.raises(UserError, match="^TRAINER.IVLP.PREC must be of type str, not int \\(such as 'auto'\\)$"):
        with_own_options(cfg, IVLPConfig)


@pytest.mark.parametrize("words", [["TRAINER.IVLP.NOBODYS", "1"], ["TRAINER.COOP.NOBODYS", "1"], ["TRAINER.IVLP.PREC"]])
def test_what_nobody_has_is_refused_as_ever(words):
    with pytest.raises(AssertionError):
        extended(**THEIRS).merge_from_list(words)


def test_a_config_from_before_our_time_is_adopted_until_it_is_complete():
    early = CfgNode(cfg_default.clone())  # yacs' own class, as it was before
    early.TRAINER = CfgNode({"NAME": "", "IVLP": dict(THEIRS)})
    late = early.clone()
    late.freeze()
    for cfg in (early, late):
        adopt(cfg)
    early.merge_from_list(["TRAINER.IVLP.N_CTX_TEXT", "3", "TRAINER.VPT.N_CTX", "5"])
    assert with_own_options(early, IVLPConfig).TRAINER.IVLP.N_CTX_TEXT == 3
    assert with_own_options(early, VPTConfig).TRAINER.VPT.N_CTX == 5
    assert with_own_options(late, VPTConfig).TRAINER.VPT.N_CTX == 4
    with pytest.raises(UserError, match="to the top of train.py"):
        with_own_options(late, IVLPConfig)


def test_a_train_py_of_another_checkout_reads_base_files(tmp_path):
    cfg = get_cfg_default()
    cfg.TRAINER.OTHER = CfgNode({"DEPTH": 1, "PREC": "auto"})
    (tmp_path / "base.yaml").write_text("OPTIM: {LR: 1e-5}\nINPUT:\n  SIZE: (2, 2)\n")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml\nTRAINER: {OTHER: {DEPTH: 3}}\n")
    cfg.merge_from_file(str(tmp_path / "top.yaml"))
    assert cfg.OPTIM.LR == 1e-5 and cfg.INPUT.SIZE == (2, 2)
    assert dict(cfg.TRAINER.OTHER) == {"DEPTH": 3, "PREC": "auto"}


@pytest.fixture
def registry(monkeypatch):
    """Dassl's registry of trainers, empty, with two classes of a name: one of ours, one of a checkout's."""
    from dassl.engine import TRAINER_REGISTRY

    monkeypatch.setattr(TRAINER_REGISTRY, "_obj_map", {})
    ours = type("ZeroshotCLIP", (), {"__module__": "promptbias.trainers.zeroshot"})
    theirs = type("ZeroshotCLIP", (), {"__module__": "trainers.zsclip"})
    return TRAINER_REGISTRY, ours, theirs


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_name_that_both_have_is_theirs_whichever_comes_first(first, registry, capsys):
    from promptbias.engine.registry import enter

    registry, ours, theirs = registry
    if first == "ours":
        enter(ours)
    assert registry.register()(theirs) is theirs
    if first == "theirs":
        enter(ours)
    assert registry.get("ZeroshotCLIP") is theirs and registry.get("PromptBiasZeroshotCLIP") is ours
    assert capsys.readouterr().out.count("\n") == 1


def test_two_trainers_of_theirs_collide_as_ever(registry):
    registry, _, theirs = registry
    registry.register(theirs)
    with pytest.raises(KeyError):
        registry.register()(type("ZeroshotCLIP", (), {"__module__": "trainers.other"}))
