"""`import promptbias.plugin` in somebody else's checkout, which has its own `trainers/`, `datasets/` and `train.py`."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT

TRAIN_PY = """
    import sys
    from dassl.config import get_cfg_default
    from dassl.engine import TRAINER_REGISTRY, build_trainer
    from dassl.utils import set_random_seed
    import datasets.flags
    import trainers.coop
    {line}

    cfg = get_cfg_default()
    cfg.merge_from_list(sys.argv[1:])
    set_random_seed(1)
    print("registered:", *TRAINER_REGISTRY.registered_names())
    build_trainer(cfg).train()
"""

FLAGS_PY = """
    import os
    from PIL import Image
    from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

    @DATASET_REGISTRY.register()
    class Flags(DatasetBase):
        def __init__(self, cfg):
            items = []
            for label, name in enumerate(["red", "green", "blue"]):
                for i in range(4):
                    path = os.path.join(cfg.DATASET.ROOT, f"{name}{i}.png")
                    Image.new("RGB", (40, 40), name).save(path)
                    items.append(Datum(impath=path, label=label, classname=name))
            super().__init__(train_x=items, val=items, test=items)
"""

COOP_PY = """
    from dassl.engine import TRAINER_REGISTRY, TrainerX

    @TRAINER_REGISTRY.register()
    class {name}(TrainerX):
        pass
"""


@pytest.fixture
def checkout(tmp_path):
    """A miniature checkout of the family; returns make(line in train.py, name of its own trainer)."""
    folder = tmp_path / "CoOp"

    def make(line, name="CoOp"):
        for package, file, text in (
            ("datasets", "flags.py", FLAGS_PY),
            ("trainers", "coop.py", COOP_PY.format(name=name)),
        ):
            (folder / package).mkdir(parents=True)
            (folder / package / "__init__.py").touch()
            (folder / package / file).write_text(textwrap.dedent(text))
        (folder / "train.py").write_text(textwrap.dedent(TRAIN_PY.format(line=line)))
        (folder / "data").mkdir()
        return folder

    return make


def train(folder, weights, trainer, path):
    """Run the checkout's train.py; Dassl and our hook are installed, which PYTHONPATH stands for."""
    options = {
        "TRAINER.NAME": trainer,
        "DATASET.NAME": "Flags",
        "DATASET.ROOT": str(folder / "data"),
        "OUTPUT_DIR": str(folder / "output"),
        "MODEL.BACKBONE.NAME": weights,
        "INPUT.SIZE": "(32, 32)",
        "OPTIM.MAX_EPOCH": "1",
        "OPTIM.NAME": "sgd",
        "DATALOADER.NUM_WORKERS": "0",
        "TRAINER.BIASTUNING.DEPTH_VISION": "3",
        "TRAINER.BIASTUNING.DEPTH_TEXT": "3",
    }
    words = [
        word for pair in options.items() for word in pair if not (pair[0].startswith("TRAINER.B") and trainer == "CoOp")
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run(
        [sys.executable, "train.py", *words], cwd=folder, capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
def test_one_line_is_enough(checkout, weights_file):
    folder = checkout("import promptbias.plugin")
    for name in ("templates", "errors", "files", "trainer"):  # their own modules, of everyday names
        (folder / "trainers" / f"{name}.py").touch()
    done = train(folder, weights_file, "BiasTuning", [os.path.join(ROOT, "compat"), ROOT])
    assert done.returncode == 0, done.stderr
    (registered,) = re.findall("^registered: (.*)$", done.stdout, re.MULTILINE)
    assert registered.startswith("CoOp BiasTuning") and {"IVLP", "VPT", "ZeroshotCLIP"} <= set(registered.split())
    assert (folder / "output" / "BlockBias" / "model.pth.tar-1").exists() and "* accuracy:" in done.stdout


@pytest.mark.slow
def test_a_name_that_is_taken_stays_theirs(checkout, weights_file):
    folder = checkout("import promptbias.plugin", name="BiasTuning")
    done = train(folder, weights_file, "PromptBiasBiasTuning", [os.path.join(ROOT, "compat"), ROOT])
    assert done.returncode == 0, done.stderr
    assert 'a trainer "BiasTuning" is registered already: ours is "PromptBiasBiasTuning"' in done.stdout
    assert (folder / "output" / "results.json").exists()


@pytest.mark.slow
def test_a_copied_method_file_works_without_the_plugin(checkout, weights_file):
    folder = checkout("import trainers.bias_tuning")
    shutil.copy(os.path.join(ROOT, "trainers", "bias_tuning.py"), folder / "trainers")
    done = train(folder, weights_file, "BiasTuning", [os.path.join(ROOT, "compat"), ROOT])
    assert done.returncode == 0, done.stderr
    assert "registered: CoOp BiasTuning\n" in done.stdout and (folder / "output" / "results.json").exists()


@pytest.mark.slow
def test_a_copied_method_file_and_the_plugin_are_one_method(checkout, weights_file):
    folder = checkout("import promptbias.plugin, trainers.ivlp, trainers.bias_tuning")
    shutil.copy(os.path.join(ROOT, "trainers", "bias_tuning.py"), folder / "trainers")
    done = train(folder, weights_file, "BiasTuning", [os.path.join(ROOT, "compat"), ROOT])
    assert done.returncode == 0, done.stderr
    assert "registered already" not in done.stdout and (folder / "output" / "results.json").exists()


def test_a_run_of_a_checkout_where_the_name_was_taken_is_known_here():
    import promptbias.trainers.ivlp  # noqa: F401
    from promptbias.engine.registry import registered_as

    assert registered_as("PromptBiasIVLP") == registered_as("IVLP") == "IVLP" and registered_as("CoOp") == "CoOp"


def dassl_in_use(tmp_path):
    """The file of the Dassl that is used where one is installed in tmp_path/site; and the process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), ROOT])}
    done = subprocess.run(
        [sys.executable, "-c", "import promptbias.engine, dassl; print(dassl.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.stdout.strip().splitlines()[-1], done


def test_a_dassl_that_fails_gives_way_and_one_line_says_why(tmp_path):
    (tmp_path / "site" / "dassl").mkdir(parents=True)
    (tmp_path / "site" / "dassl" / "__init__.py").write_text("import a_module_that_nobody_has")
    file, done = dassl_in_use(tmp_path)
    assert file == os.path.join(ROOT, "compat", "dassl", "__init__.py")
    assert done.stderr.count("\n") == 1 and "No module named 'a_module_that_nobody_has'" in done.stderr


def test_a_dassl_that_works_wins(tmp_path):
    shutil.copytree(os.path.join(ROOT, "compat", "dassl"), tmp_path / "site" / "dassl")
    file, done = dassl_in_use(tmp_path)
    assert file == str(tmp_path / "site" / "dassl" / "__init__.py") and done.stderr == ""
