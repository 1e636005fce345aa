"""What a user can get wrong is one sentence."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from promptbias.utils.errors import UserError


@pytest.fixture
def refusal(train_py, monkeypatch):
    """refusal(*words): what `train.py` says of words that it refuses."""

    def refuse(*words):
        import train

        monkeypatch.setattr(sys, "argv", train_py.command(*words)[1:])
        monkeypatch.setattr(sys, "stdout", sys.stdout)  # the run's logger takes its place
        monkeypatch.chdir(ROOT)
        with pytest.raises(UserError) as refused:
            train.main()
        assert "\n" not in str(refused.value)
        return str(refused.value)

    return refuse


@pytest.mark.parametrize(
    "words, said",
    [
        (("--trainer", "BiasTunning"), 'there is no trainer "BiasTunning": did you mean "BiasTuning"?'),
        (("DATASET.NAME", "Digit"), 'there is no dataset "Digit": did you mean "Digits"?'),
        (("--backbone", "ViT-B16"), 'there is no CLIP "ViT-B16": did you mean "ViT-B/16"?'),
        (("--backbone", "RN50"), "RN50 is a ResNet"),
        (("TRAINER.BIASTUNING.DEPHT_TEXT", "1"), "there is no config key TRAINER.BIASTUNING.DEPHT_TEXT: did you mean"),
        (("OPTIM.MAX_EPOCH",), "KEY VALUE pairs"),
        (("OPTIM.MAX_EPOCH", "--backbone", "tiny"), "OPTIM.MAX_EPOCH is followed by the flag --backbone"),
        (("OPTIM.LR", "0.1", "--backbon", "tiny"), 'there is no flag --backbon: did you mean "--backbone"?'),
        (("--config-file", "configs/trainers/BiasTuning/tinny.yaml"), 'did you mean "tiny.yaml"?'),
        (("--dataset-config-file", "configs/datasets/eurosatt.yaml"), 'did you mean "eurosat.yaml"?'),
        (("DATASET.NUM_SHOTS", "0"), "NUM_SHOTS"),
        (("--output-dir", "/dev/null/out"), "/dev/null/out"),
        (("OPTIM.LR", "1e30"), "the last good checkpoint is kept"),
        (("OPTIM.LR", "-1.0"), "OPTIM.LR is -1.0, but must be at least 0"),
        (("OPTIM.NAME", "sgdd"), "OPTIM.NAME must be one of"),
        (("OPTIM.LR.FOO", "1"), "OPTIM.LR.FOO"),
        (("OPTIM.LR", "fast"), "OPTIM.LR must be of type float, not str"),
        (("OPTIM", "5"), "there is no config key OPTIM: did you mean"),
        (("OPTIM.MAX_EPOCH", "0"), "OPTIM.MAX_EPOCH is 0"),
        (("OPTIM.LR_SCHEDULER", "cosin"), "OPTIM.LR_SCHEDULER must be one of"),
        (("INPUT.PIXEL_STD", "[1.0, 1.0]"), "three numbers"),
        (("INPUT.RRCROP_SCALE", "(1.0, 0.1)"), "the smaller one first"),
        (("INPUT.RRCROP_SCALE", "(0.5,)"), "the smaller one first"),
        (("OPTIM.LR", "None"), "OPTIM.LR has no value (such as "),
        (("OPTIM.LR", "1e999"), "OPTIM.LR is inf, but must be finite"),
        (("OPTIM.LR", "[" * 99 + "]" * 99), "OPTIM.LR must be of type float"),
        (("OPTIM.LR", "-" * 9999 + "1"), "OPTIM.LR"),
        (("OPTIM.WEIGHT_DECAY", "nan"), "OPTIM.WEIGHT_DECAY must be of type float, not str"),
        (("OPTIM.SGD_NESTEROV", "True", "OPTIM.MOMENTUM", "0"), "OPTIM.SGD_NESTEROV needs"),
        (("OPTIM.STEPSIZE", "('a',)"), "OPTIM.STEPSIZE is ('a',), but must be whole numbers of epochs"),
        (("DATALOADER.TRAIN_X.BATCH_SIZE", "0"), "DATALOADER.TRAIN_X.BATCH_SIZE is 0"),
        (("DATALOADER.NUM_WORKERS", "100000"), "DATALOADER.NUM_WORKERS is 100000, but must be between 0 and 256"),
        (("INPUT.SIZE", "64"), "INPUT.SIZE is (64, 64), but this CLIP sees images of (32, 32)"),
        (("INPUT.SIZE", "32.5"), "INPUT.SIZE must be of type tuple, not float (such as (32, 32))"),
        (("INPUT.SIZE", "(32,)"), "height and width in whole pixels"),
        (("INPUT.TRANSFORMS", "(1, 2)"), "names of transforms"),
        (("INPUT.GB_K", "2"), "an odd number of pixels"),
        (("DATASET.NAME", "a\udcff"), "must be text in UTF-8"),
        (("OUTPUT_DIR", ""), "OUTPUT_DIR is empty"),
        (("MODEL.BACKBONE.NAME", ""), "no CLIP is named"),
        (("SEED", "None"), "SEED has no value"),
        (("--root", __file__), "Not a directory"),
        (("INPUT.NO_TRANSFORM", "True"), "INPUT.NO_TRANSFORM is True"),
        (("TEST.FINAL_MODEL", "best"), "'last_step' or 'best_val'"),
        (("TEST.EVALUATOR", "Foo"), '"Foo" is not available'),
        (("DATALOADER.TRAIN_X.SAMPLER", "Foo"), '"Foo" is not a sampler'),
        (("--transforms", "random_flop"), '"random_flop" is not a transform'),
        (("--seed", "99999999999"), "below 2**32"),
        (("--model-dir", "somewhere"), "add --eval-only"),
        (("TRAINER.BIASTUNING.DEPTH_TEXT", "0", "TRAINER.BIASTUNING.DEPTH_VISION", "0"), "nothing to train"),
    ],
)
def test_bad_input_gets_one_clear_sentence(refusal, tmp_path, words, said):
    given = words if "--output-dir" in words else ("--output-dir", str(tmp_path / "out"), *words)
    assert said in refusal(*given)
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("code.py", "cfg = {}", "must hold keys"),
        ("list.yaml", "- 1", "must hold keys"),
        ("tab.yaml", "OPTIM:\n\tLR: 1", "in line 2"),
        ("latin.yaml", b"A: \xe9", "UTF-8"),
        ("self.yaml", "OPTIM: &o {LR: *o}", "line 1: *o stands for"),
        ("scalar.yaml", "OPTIM: 5", "OPTIM must be of type"),
    ],
)
def test_a_config_that_is_none_is_refused_and_never_run(refusal, tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    sentence = refusal("--output-dir", str(tmp_path / "out"), "--config-file", str(tmp_path / name))
    assert name in sentence and said in sentence and not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["results.json", "config.yaml"])
def test_a_damaged_file_of_a_run_is_one_sentence(run, train_py, tmp_path, file):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / file).write_text("{ broken: [")
    done = train_py("--output-dir", str(tmp_path / "run"), "--resume", str(tmp_path / "run"))
    said = [line for line in done.stderr.splitlines() if "has no checksum" not in line]
    assert done.returncode == 1 and len(said) == 1 and said[0].startswith("error: ") and file in said[0]


def test_bad_input_ends_the_command_with_one_line(train_py, tmp_path):
    done = train_py("--output-dir", str(tmp_path), "--trainer", "BiasTunning")
    assert (
        done.returncode == 1 and done.stderr == 'error: there is no trainer "BiasTunning": did you mean "BiasTuning"?\n'
    )


def test_help_waits_for_nothing_heavy():
    words = [sys.executable, "-X", "importtime", "train.py", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--dataset-config-file" in done.stdout
    assert "torch" not in done.stderr and "numpy" not in done.stderr


def test_a_run_leaves_out_what_torchvision_imports_for_nothing(run, train_py):
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]\ntry: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit:\n"
        "    print([name for name in ('torch._dynamo', 'torchvision.transforms') if name in sys.modules])"
    )
    words = train_py.command("--output-dir", str(run[0]), "--resume", str(run[0]))[1:]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['torchvision.transforms']", done.stderr
