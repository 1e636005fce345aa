"""Configs: YAML files and their `_BASE_`, values and flags of the command line, and what the shipped ones say."""

import functools
import glob
import os
import time

import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptbias.engine import checks, config
from promptbias.engine.discovery import register_all
from promptbias.engine.train import parse_args
from promptbias.utils.errors import UserError
from promptbias.utils.yaml_files import read_yaml

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
    assert read_yaml(path) == {
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
    assert read_yaml(path) == expected
    monkeypatch.chdir(tmp_path / "..")  # relative to the file, not to the working folder
    assert read_yaml(os.path.join(tmp_path.name, "top.yaml")) == expected


def test_two_files_may_share_a_base(write):
    write("root.yaml", "A: 0\nB: 0\n")
    write("one.yaml", "_BASE_: root.yaml\nA: 1\n")
    assert read_yaml(write("top.yaml", "_BASE_: [one.yaml, root.yaml]\n")) == {"A": 0, "B": 0}


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
        read_yaml(write("top.yaml", text))
    assert "\n" not in str(refused.value)


def test_a_damaged_base_is_named(write):
    write("base.yaml", "A:\n\tB: 1\n")
    with pytest.raises(UserError, match=r"base.yaml is not YAML: .* in line 2"):
        read_yaml(write("top.yaml", "_BASE_: base.yaml\n"))


def levels(first, line):
    """YAML of eight levels, each of which names the one before it nine times."""
    return first + "".join(
        line.format(new=new, old=",".join(9 * ["*" + old])) for old, new in zip("abcdefgh", "bcdefghi")
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("A: &x {B: *x}", "line 1: *x stands for something that it is itself a part of"),
        ("A: 1\nB: &x [*x]", "line 2: *x stands for"),
        ("A: " + 5000 * "[", "nested more than 20 deep"),
        ("A: " + 5000 * "{a: ", "nested more than 20 deep"),
        (levels("a: &a [1]\n", "{new}: &{new} [{old}]\n"), "more than 10,000 values"),
        (levels("a: &a {x: 1}\n", "{new}: &{new} {{<<: [{old}]}}\n"), "more than 10,000 values"),
        ("A: [" + 20_000 * "1," + "]", "more than 10,000 values"),
        ("A: " + 300_000 * "x", "more than 200,000 bytes"),
        ("A: 1\n2: x", "line 2: 2 stands where a key is due"),
        ("on: x", "on stands where a key is due"),
        ("? [a, b]\n: x", "a list or mapping stands where a key is due"),
        ("A: 1\nB: 2\nA: 3", "line 3: the key A stands twice"),
        ("A: 2020-01-01", "2020-01-01 is a date; write it in quotes"),
        ("A: !!set {b}", "marked !!set"),
        ("A: !!binary aGVsbG8=", "marked !!binary"),
        ("A: !!python/object/apply:os.system [x]", "marked !!python/object/apply:os.system"),
        ("A: !!int many", "cannot be read"),
        ("A: !!int ''", "cannot be read"),
        ("A: !!bool maybe", "cannot be read"),
        ("A: " + 5000 * "9", "cannot be read"),
        ("A: *b", "undefined alias"),
        ("A: 1\n---\nA: 2", "another document in line 2"),
        ("A: \0", "not YAML in UTF-8"),
    ],
)
def test_what_a_config_cannot_hold_is_refused_at_once(write, text, said):
    path, started = write("odd.yaml", text), time.monotonic()
    with pytest.raises(UserError) as refused:
        read_yaml(path)
    assert said in str(refused.value) and path in str(refused.value) and "\n" not in str(refused.value)
    assert time.monotonic() - started < 5


def test_anchors_and_merge_keys_may_be_used(write):
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: [*x, *x]\nd: '2020-01-01'\n"
    assert read_yaml(write("anchors.yaml", text)) == yaml.safe_load(text)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_config_that_is_no_file_is_not_waited_for(tmp_path, kind):
    path = str(tmp_path / "odd.yaml")
    os.mkdir(path) if kind == "folder" else os.mkfifo(path)
    (tmp_path / "top.yaml").write_text("_BASE_: odd.yaml\n")
    for read in (config.find_file, read_yaml, lambda path: read_yaml(str(tmp_path / "top.yaml"))):
        with pytest.raises(UserError, match="odd.yaml is not a regular file but a "):
            read(path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
MAPPINGS = st.dictionaries(
    st.text(min_size=1).filter(lambda key: key not in ("_BASE_", "<<", "=")),
    st.recursive(
        SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(), of, max_size=3), max_leaves=9
    ),
)
ONE_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ONE_FOLDER
@given(MAPPINGS, st.booleans())
def test_whatever_yaml_can_write_of_plain_values_is_read(tmp_path, mapping, flow):
    text = yaml.safe_dump(mapping, default_flow_style=flow)
    (tmp_path / "plain.yaml").write_bytes(text.encode())
    assert read_yaml(str(tmp_path / "plain.yaml")) == mapping


@ONE_FOLDER
@given(st.binary() | st.text("ab:-?[]{},&*!|>'\"%@ #\n\t<~0", max_size=80).map(str.encode))
def test_any_bytes_are_a_mapping_or_one_sentence(tmp_path, content):
    (tmp_path / "bytes.yaml").write_bytes(content)
    try:
        assert isinstance(read_yaml(str(tmp_path / "bytes.yaml")), dict)
    except UserError as refused:
        assert str(refused).isprintable()


def test_an_unknown_key_of_a_base_is_one_sentence(write):
    from dassl.config import get_cfg_default

    write("base.yaml", "OPTIM: {LRR: 1}\n")
    with pytest.raises(UserError, match='top.yaml: there is no config key OPTIM.LRR: did you mean "OPTIM.LR"'):
        config.merge_file(get_cfg_default(), write("top.yaml", "_BASE_: base.yaml\n"))


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


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("INPUT.SIZE", "64", (64, 64)),
        ("OPTIM.LR", "1", 1.0),
        ("USE_CUDA", "false", False),
        ("DATASET.ROOT", "2024", "2024"),
        ("DATASET.NAME", "{}", "{}"),
        ("DATASET.NAME", "'quoted'", "quoted"),
        ("DATASET.NAME", "None", ""),
        ("OPTIM.STEPSIZE", "[1, 2]", (1, 2)),
    ],
)
def test_a_value_is_taken_for_what_is_clearly_meant(write, key, text, value):
    from dassl.config import get_cfg_default

    by_pair, by_file = get_cfg_default(), get_cfg_default()
    config.merge_options(by_pair, [key, text])
    node, name = key.rpartition(".")[::2]
    written = f"{node}: {{{name}: {text!r}}}\n" if node else f"{name}: {text}\n"
    config.merge_file(by_file, write("value.yaml", written))
    for cfg in (by_pair, by_file):
        found = config.flatten(cfg)[key]
        assert found == value and type(found) is type(value)


def test_a_node_with_nothing_below_it_says_nothing(write):
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    config.merge_file(cfg, write("empty.yaml", "OPTIM:\nTRAINER: {NAME: X, MCD: }\n"))
    assert cfg.OPTIM == get_cfg_default().OPTIM and cfg.TRAINER.MCD == get_cfg_default().TRAINER.MCD
    with pytest.raises(UserError, match=r"value.yaml: OPTIM.LR has no value \(such as 0.0003\)"):
        config.merge_file(cfg, write("value.yaml", "OPTIM: {LR: }\n"))


FLAGS = (["--seed", "3"], ["--trainer", "X"], ["--eval-only"], ["--backbone=tiny"])
PAIRS = (["OPTIM.LR", "-1e-3"], ["TRAINER.X.WORDS", "-- a"], ["INPUT.SIZE", "64"])


@settings(deadline=None)
@given(st.permutations(FLAGS + PAIRS))
def test_flags_and_pairs_come_in_any_order(parts):
    args = vars(parse_args([word for part in parts for word in part]))
    pairs = [word for part in parts if part in PAIRS for word in part]
    first = vars(parse_args([*(word for part in FLAGS for word in part), *pairs]))
    assert args == first and args["opts"] == pairs and args["backbone"] == "tiny" and args["eval_only"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["A.B", "1", "--bakbone", "x"], 'there is no flag --bakbone: did you mean "--backbone"?'),
        (["A.B", "--backbone", "x"], "A.B is followed by the flag --backbone"),
        (["A.B", "1", "--", "C.D", "1"], "there is no flag --:"),
        (["A.B", "1", "-1", "2"], "there is no flag -1:"),
    ],
)
def test_what_is_no_pair_and_no_flag_is_one_sentence(words, said):
    with pytest.raises(UserError) as refused:
        parse_args(words)
    assert said in str(refused.value)


NUMBERS = st.floats() | st.integers(-(10**30), 10**30) | st.sampled_from([True, False, None, "1", (1,)])


@settings(deadline=None)
@given(st.sampled_from(sorted(checks.RANGES)), NUMBERS)
def test_a_number_is_used_only_inside_its_range(key, value):
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    *nodes, name = key.split(".")
    functools.reduce(lambda node, inner: node[inner], nodes, cfg)[name] = value
    low, high = checks.RANGES[key]
    if type(value) in (int, float) and low <= value <= high and abs(value) != float("inf"):
        checks.check_values(cfg)
    else:
        with pytest.raises(UserError, match=key):
            checks.check_values(cfg)


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
    if method in ("BiasTuning", "IVLP", "LNTuning", "VPT"):  # the others have the settings of their own papers
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
        assert "OPTIM" not in read_yaml(os.path.join(TRAINERS, "ZeroshotCLIP", backbone + ".yaml"))
