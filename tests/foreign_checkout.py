"""A miniature of a CoOp, MaPLe or PromptSRC checkout: its own train.py, trainers, a dataset, and an `extend_cfg`."""

import os
import shutil
import subprocess
import sys
import textwrap

from conftest import ROOT

# {0} to {2} are the places where `import promptbias.plugin` may stand.
TRAIN_PY = """\
# -*- coding: utf-8 -*-
'''Somebody else's.'''
{0}
import sys
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed
import datasets.flags
import trainers.coop
import trainers.independentVL
import trainers.zsclip
{1}

def extend_cfg(cfg):
    from yacs.config import CfgNode as CN

    cfg.TRAINER.COOP = CN()
    cfg.TRAINER.COOP.N_CTX = 16
    cfg.TRAINER.IVLP = CN()
    cfg.TRAINER.IVLP.N_CTX_VISION = 2
    cfg.TRAINER.IVLP.N_CTX_TEXT = 2
    cfg.TRAINER.IVLP.CTX_INIT = "a photo of a"
    cfg.TRAINER.IVLP.PREC = "fp16"
    cfg.TRAINER.IVLP.PROMPT_DEPTH_VISION = 9
    cfg.TRAINER.IVLP.PROMPT_DEPTH_TEXT = 9
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"

def setup_cfg(words):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    {2}
    if words[0].endswith(".yaml"):
        cfg.merge_from_file(words.pop(0))
    cfg.merge_from_list(words)
    cfg.freeze()
    return cfg

if __name__ == "__main__":
    cfg = setup_cfg(sys.argv[1:])
    set_random_seed(1)
    print("dassl:", sys.modules["dassl"].__file__)
    print("registered:", *sorted(TRAINER_REGISTRY.registered_names()))
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

TRAINER_PY = """
    from dassl.engine import TRAINER_REGISTRY, TrainerX

    @TRAINER_REGISTRY.register()
    class {name}(TrainerX):
        def __init__(self, cfg):
            print("theirs:", cfg.TRAINER.IVLP.PREC, cfg.TRAINER.IVLP.N_CTX_TEXT, cfg.TRAINER.IVLP.PROMPT_DEPTH_TEXT)

        def train(self):
            pass
"""

IMPORT = "import promptbias.plugin"


def make_checkout(folder, place=None, line=IMPORT):
    """Write a checkout, with `line` in train.py at 0: the top, 1: after the imports, or 2: after `extend_cfg`."""
    trainers = {"coop.py": "CoOp", "independentVL.py": "IVLP", "zsclip.py": "ZeroshotCLIP"}
    files = {os.path.join("trainers", file): TRAINER_PY.format(name=name) for file, name in trainers.items()}
    files |= {os.path.join("datasets", "flags.py"): FLAGS_PY}
    for package in ("trainers", "datasets", "data"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    for file, text in files.items():
        (folder / file).write_text(textwrap.dedent(text))
    lines = [line if place == i else "pass" for i in range(3)]
    (folder / "train.py").write_text(TRAIN_PY.format(*lines))
    return folder


def working_dassl(site):
    """Install a Dassl that works."""
    shutil.copytree(os.path.join(ROOT, "compat", "dassl"), site / "dassl")
    return str(site)


def broken_dassl(site):
    """Install a Dassl whose warm-up scheduler fails as upstream's does on current torch."""
    working_dassl(site)
    file = site / "dassl" / "optim" / "lr_scheduler.py"
    file.write_text(file.read_text().replace("super().__init__(optimizer)", "super().__init__(optimizer, -1, False)"))
    return str(site)


def run(folder, command, trainer, weights, *words, path=()):
    """Run `python *command` in a checkout where promptbias is installed; `trainer` trains for one epoch.

    Args:
        words: a YAML file, if any, and KEY VALUE pairs.
        path: what is installed besides.
    """
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
    }
    yaml = [word for word in words[:1] if word.endswith(".yaml")]
    pairs = [word for pair in options.items() for word in pair]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, ROOT])}
    argv = [sys.executable, *command, *yaml, *pairs, *words[len(yaml) :]]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, env=environment)
