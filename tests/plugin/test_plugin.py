"""`promptbias run`, and `import promptbias.plugin`, in somebody else's checkout."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from foreign_checkout import IMPORT, broken_dassl, make_checkout, run, working_dassl
from versions import needs_strict_scheduler

RUN = ["-m", "promptbias", "run", "train.py"]
PLAIN = ["train.py"]
COMPAT = os.path.join(ROOT, "compat")
IVLP = ["TRAINER.IVLP.PROMPT_DEPTH_VISION", "3", "TRAINER.IVLP.PROMPT_DEPTH_TEXT", "3"]
NAMES = (
    "registered: BiasTuning CLIPFit CoOp IVLP LNTuning LoRA ProLIP PromptBiasIVLP PromptBiasZeroshotCLIP TextContext "
    "VPT ZeroshotCLIP\n"
)


@pytest.fixture(scope="session")
def ivlp_run(tmp_path_factory, weights_file):
    """`promptbias run train.py` with our IVLP, where there is no Dassl: the checkout and the finished process."""
    folder = make_checkout(tmp_path_factory.mktemp("host") / "MaPLe")
    for name in ("templates", "errors", "files", "trainer"):  # their own modules, of everyday names
        (folder / "trainers" / f"{name}.py").touch()
    yaml = "configs/trainers/IVLP/vit_b16_deep.yaml"  # not in the checkout: it comes with the package
    warmup = ["OPTIM.WARMUP_EPOCH", "1", "OPTIM.WARMUP_TYPE", "constant"]  # where upstream's Dassl fails
    return folder, run(folder, RUN, "PromptBiasIVLP", weights_file, yaml, *IVLP, *warmup)


@pytest.mark.slow
def test_a_checkout_runs_without_an_edit(ivlp_run):
    folder, done = ivlp_run
    assert done.returncode == 0, done.stderr
    assert NAMES in done.stdout
    assert 'a trainer "IVLP" is registered already: ours is "PromptBiasIVLP"' in done.stdout
    assert "no Dassl is installed" in done.stderr
    assert (folder / "output" / "VLPromptLearner" / "model.pth.tar-1").exists() and "* accuracy:" in done.stdout


@pytest.mark.slow
def test_our_trainer_has_our_defaults_and_what_the_yaml_and_the_flags_say(ivlp_run):
    from promptbias.engine.run_folder import read_config

    ours = read_config(str(ivlp_run[0] / "output")).TRAINER.IVLP
    assert dict(ours) == {
        "PREC": "auto",
        "N_CTX_VISION": 4,
        "N_CTX_TEXT": 4,
        "CTX_INIT": "a photo of a",
        "PROMPT_DEPTH_VISION": 3,
        "PROMPT_DEPTH_TEXT": 3,
        "CONSISTENCY": 0.0,
        "CONSISTENCY_OF": ["image", "text"],
    }


@pytest.mark.slow
def test_the_run_can_be_loaded_here(ivlp_run):
    import promptbias

    model = promptbias.load(ivlp_run[0] / "output")
    assert model.classnames == ["red", "green", "blue"] and model.adapters.trainable_parameters == 3 * 4 * (128 + 128)


@pytest.mark.slow
def test_the_line_works_after_extend_cfg_and_with_an_installed_dassl(tmp_path, weights_file):
    """Other tests have it at the top and after the imports."""
    folder, site = make_checkout(tmp_path / "MaPLe", 2), working_dassl(tmp_path / "site")
    done = run(folder, PLAIN, "PromptBiasIVLP", weights_file, *IVLP, path=[site])
    assert done.returncode == 0 and NAMES in done.stdout, done.stderr
    assert "PREC: auto" in (folder / "output" / "config.yaml").read_text().split("IVLP:")[1]
    assert f"dassl: {site}" in done.stdout and "Dassl" not in done.stderr


@needs_strict_scheduler
@pytest.mark.slow
def test_a_broken_dassl_gives_way_for_their_trainer_too_which_keeps_its_own_options(tmp_path, weights_file):
    site = broken_dassl(tmp_path / "site")
    folder = make_checkout(tmp_path / "MaPLe")
    done = run(folder, RUN, "IVLP", weights_file, "TRAINER.IVLP.N_CTX_TEXT", "3", path=[site])
    assert done.returncode == 0 and "theirs: fp16 3 9" in done.stdout, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "Dassl" in line]
    assert "positional arguments but 4 were given" in line and line.endswith(f"using the one in {COMPAT}")
    assert f"dassl: {COMPAT}" in done.stdout


@needs_strict_scheduler
@pytest.mark.slow
def test_a_broken_dassl_that_is_imported_already_is_too_late(tmp_path, weights_file):
    site = broken_dassl(tmp_path / "site")
    done = run(make_checkout(tmp_path / "CoOp", 1), PLAIN, "BiasTuning", weights_file, path=[site])
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "it is too late" in done.stderr and "python -m promptbias run" in done.stderr


@pytest.mark.slow
def test_a_script_fails_as_it_does_under_python(tmp_path):
    (tmp_path / "train.py").write_text("import sys\nprint(sys.argv)\nopen('nowhere')\n")
    environment = {**os.environ, "PYTHONPATH": ROOT}
    runs = [
        subprocess.run(
            [sys.executable, *words, "--a", "1"], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        for words in (RUN, PLAIN)
    ]
    assert runs[0].returncode == runs[1].returncode == 1 and runs[0].stdout == runs[1].stdout
    last = [done.stderr.splitlines()[-3:] for done in runs]
    assert last[0][-1] == last[1][-1] and "nowhere" in last[0][-1]
    assert "runpy" not in runs[0].stderr and "promptbias/" not in runs[0].stderr.partition("Traceback")[2]


def test_a_missing_script_is_one_sentence(tmp_path):
    from promptbias.host.run import main
    from promptbias.utils.errors import UserError

    with pytest.raises(UserError, match="there is no .*train.py in "):
        main([str(tmp_path / "train.py")])


@pytest.mark.slow
def test_a_copied_method_file_works_without_the_plugin(tmp_path, weights_file):
    folder = make_checkout(tmp_path / "CoOp", 1, "import trainers.bias_tuning")
    shutil.copy(os.path.join(ROOT, "trainers", "bias_tuning.py"), folder / "trainers")
    done = run(folder, PLAIN, "BiasTuning", weights_file, path=[COMPAT])
    assert done.returncode == 0, done.stderr
    assert "registered: BiasTuning CoOp IVLP ZeroshotCLIP\n" in done.stdout
    assert (folder / "output" / "results.json").exists()


@pytest.mark.slow
def test_a_copied_method_file_and_the_plugin_are_one_method(tmp_path, weights_file):
    folder = make_checkout(tmp_path / "CoOp", 1, f"{IMPORT}, trainers.ivlp, trainers.bias_tuning")
    shutil.copy(os.path.join(ROOT, "trainers", "bias_tuning.py"), folder / "trainers")
    done = run(folder, PLAIN, "CoOp", weights_file, path=[COMPAT])  # theirs, which has nothing to train
    assert done.returncode == 0 and NAMES in done.stdout, done.stderr


def test_a_dassl_that_cannot_be_imported_gives_way_and_one_line_says_why(tmp_path):
    (tmp_path / "dassl").mkdir()
    (tmp_path / "dassl" / "__init__.py").write_text("import a_module_that_nobody_has")
    code = "from promptbias.dassl_host import provide_dassl as p; p(); import dassl; print(dassl.__file__)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), ROOT])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == os.path.join(COMPAT, "dassl", "__init__.py") + "\n"
    assert done.stderr.count("\n") == 1 and "No module named 'a_module_that_nobody_has'" in done.stderr
