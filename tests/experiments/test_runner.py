"""The runner: names of methods and configurations, which keys matter to zero-shot CLIP, and commands."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from promptbias.experiments import layout, protocols
from promptbias.experiments.paper import bias, prompts, zero_shot
from promptbias.experiments.runs import Run, environment, for_zero_shot
from promptbias.utils.errors import UserError


@pytest.fixture
def new_method(tmp_path, monkeypatch):
    """A copy of the configurations with a method MyMethod, which has one for the tiny CLIP only."""
    configs = tmp_path / "configs"
    shutil.copytree(layout.CONFIGS, configs)
    (configs / "trainers" / "MyMethod").mkdir()
    (configs / "trainers" / "MyMethod" / "tiny_mine.yaml").write_text('_BASE_: "../_base_/tiny.yaml"\n')
    monkeypatch.setattr(layout, "CONFIGS", str(configs))
    return configs


def test_methods_are_the_folders_of_configurations(new_method):
    assert {"BiasTuning", "IVLP", "MyMethod", "ZeroshotCLIP"} <= set(layout.methods())
    assert not [name for name in layout.methods() if name.startswith("_")]
    assert layout.find_method("mymethod") == "MyMethod" and layout.find_method("ivlp") == "IVLP"
    with pytest.raises(UserError, match='there is no method "BiasTunning" .*did you mean "BiasTuning"'):
        layout.find_method("BiasTunning")


def test_a_new_method_needs_no_more_than_its_configuration(new_method):
    assert layout.default_cfg("MyMethod", "digits") == "tiny_mine" == layout.find_cfg("MyMethod", "digits", "mine")
    with pytest.raises(UserError, match="MyMethod has no configuration for vit_b16"):
        layout.default_cfg("MyMethod", "eurosat")


@pytest.mark.parametrize(
    "method, dataset, cfg",
    [
        ("BiasTuning", "digits", "tiny"),
        ("BiasTuning", "eurosat", "vit_b16"),
        ("IVLP", "digits", "tiny_prompt"),
        ("ZeroshotCLIP", "imagenet_a", "vit_b16"),
    ],
)
def test_default_configurations(method, dataset, cfg):
    assert layout.default_cfg(method, dataset) == cfg


def test_a_configuration_names_the_backbone():
    assert layout.backbone_of("digits") == "tiny" and layout.backbone_of("eurosat") == "vit_b16"
    assert layout.backbone_of("digits", "vit_b16_deep") == "vit_b16" and layout.backbone_of("dtd", "tiny_x") == "tiny"
    assert layout.backbone_of("dtd", "my_own") == "vit_b16"


def test_zero_shot_keeps_only_keys_that_matter_to_it():
    training = ["OPTIM.LR", "TRAIN.PRINT_FREQ", "DATALOADER.TRAIN_X.BATCH_SIZE", "DATALOADER.NUM_WORKERS"]
    training += ["TRAINER.IVLP.N_CTX_TEXT", "TRAINER.ANYTHING.NEW"]
    kept = ["INPUT.SIZE", "MODEL.BACKBONE.NAME", "DATALOADER.TEST.BATCH_SIZE", "TRAINER.ZEROSHOTCLIP.PREC"]
    options = [word for key in (*training, *kept) for word in (key, "1")]
    assert for_zero_shot(options) == tuple(word for key in kept for word in (key, "1"))


def test_the_options_of_a_setting_win():
    extra = ("OPTIM.LR", "1", "INPUT.SIZE", "(8, 8)")
    tuned = bias("{}.").run("digits", 3, 4, "d", "o", extra)
    options = ("DATASET.NUM_SHOTS", "4", *extra, "TRAINER.BIASTUNING.TEMPLATE", "{}.")
    assert tuned.options == options and tuned.is_trained and not zero_shot().is_trained
    assert tuned.folder == os.path.join("o", "digits", "BiasTuning", "tiny_generic_4shots", "seed3")
    baseline = zero_shot().run("digits", 1, 4, "d", "o", extra)
    assert baseline.options == ("INPUT.SIZE", "(8, 8)") and not baseline.is_trained


def test_a_run_knows_its_command_and_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # any folder will do
    run = prompts(4, 1).run("digits", 2, 16, "data", "output")
    cfg = run.config()
    assert (cfg.SEED, cfg.TRAINER.NAME, cfg.DATASET.NAME, cfg.DATASET.NUM_SHOTS) == (2, "IVLP", "Digits", 16)
    assert cfg.OUTPUT_DIR == cfg.RESUME == run.folder and cfg.TRAINER.IVLP.PROMPT_DEPTH_TEXT == 1
    assert run.command.startswith("python -m promptbias train --root data --seed 2 --trainer IVLP ")
    assert run.results() is None and run.divergence() == ""
    test = Run("IVLP", "digits", "tiny_shallow", "there", 2, "data", model_dir="here")
    assert not test.is_trained and test.argv[-3:] == ["--eval-only", "--model-dir", "here"]


def test_an_experiment_reads_its_arguments_and_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in {"SEEDS": "3 0", "DATA": "here", "OUTPUT": "~/runs", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    experiment = protocols.read_experiment("IVLP", "digits", ["shallow", "OPTIM.LR", "1"])
    assert (experiment.cfg, experiment.backbone, experiment.options) == ("tiny_shallow", "tiny", ("OPTIM.LR", "1"))
    assert experiment.seeds == (3, 0)
    assert (experiment.data, experiment.output) == (str(tmp_path / "here"), str(tmp_path / "runs"))
    assert experiment.runs_folder("digits", "16") == str(tmp_path / "runs/digits/IVLP/tiny_shallow_16shots")


def test_a_failing_run_ends_the_protocol_with_its_status(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        protocols.main(["zeroshotclip", "main", "digits", "INPUT.SIZ", "(8, 8)"])
    assert stopped.value.code == 1
    said = capfd.readouterr()
    assert said.err.count("\n") == 1 and 'did you mean "INPUT.SIZE"' in said.err and not said.out


def test_wrong_arguments_are_refused_before_torch_is_imported(tmp_path):
    for argv in (["BiasTunning", "main"], ["IVLP", "main", "digits", "16", "deeep"], ["IVLP", "xd", "abc"]):
        code = (
            "import sys; from promptbias.experiments.protocols import main\n"
            f"try: main({argv})\nexcept Exception as error: print(type(error).__name__, 'torch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.stdout.strip() == "UserError False", done.stderr


def test_the_runner_needs_no_installation(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert environment(A="b")["PYTHONPATH"] == os.pathsep.join([ROOT, str(tmp_path)])
    assert environment(A="b")["A"] == "b"
