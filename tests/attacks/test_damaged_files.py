"""Damage at random to every kind of file that is read: it is refused in one sentence, or what was in it is read."""

import contextlib
import os
import random
import shutil

import numpy as np
import pytest
import torch
from attack_tally import few_or_many
from loading import load, plain

from promptbias import tiny_clip
from promptbias.engine.checkpoints import read_checkpoint
from promptbias.engine.run_folder import read_config, read_results
from promptbias.model.loading import load_clip
from promptbias.utils.errors import UserError
from promptbias.utils.seals import read_pointer
from promptbias.utils.tensor_files import load_tensors

DAMAGE = {
    "a byte changed": lambda r, whole, at, to: whole[:at] + bytes([whole[at] ^ r.randint(1, 255)]) + whole[at + 1 :],
    "cut off": lambda r, whole, at, to: whole[:at],
    "a stretch lost": lambda r, whole, at, to: whole[:at] + whole[to:],
    "a stretch doubled": lambda r, whole, at, to: whole[:to] + whole[at:],
    "a stretch of zeros": lambda r, whole, at, to: whole[:at] + bytes(to - at) + whole[to:],
    "a stretch of noise": lambda r, whole, at, to: whole[:at] + r.randbytes(to - at) + whole[to:],
    "other line ends": lambda r, whole, at, to: whole.replace(b"\n", b"\r\n"),
    "another file": lambda r, whole, at, to: r.choice([b"", b"null", b"[" * 5000, b"PK\x03\x04", r.randbytes(300)]),
}


@pytest.fixture(scope="module")
def few_shot_root(tmp_path_factory):
    """A data folder with a drawn split and few-shot set of three classes."""
    from PIL import Image

    root = tmp_path_factory.mktemp("damage")
    for name in ("AnnualCrop", "Forest", "River"):
        os.makedirs(root / "eurosat" / "2750" / name)
        for number in range(10):
            pixels = np.full((4, 4, 3), number, np.uint8)
            Image.fromarray(pixels).save(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg")
    load(root, "EuroSAT", 2)
    return root


@pytest.fixture
def files(run, weights_file, few_shot_root, monkeypatch):
    """Kind -> (file, how it is read): what is compared is what reading returns."""
    folder, root = str(run[0]), few_shot_root
    model = os.path.join(folder, "BlockBias")

    def few_shots(path):
        data = load(root, "EuroSAT", 2)
        return plain(data.train_x), plain(data.val), plain(data.test)

    def pointed(path):
        """The checkpoint that is named must exist, as resuming finds."""
        name = read_pointer(os.path.dirname(path))
        if not os.path.exists(os.path.join(model, name)):
            raise UserError("no such checkpoint")
        return name

    def tiny(path):
        monkeypatch.setitem(tiny_clip.SHA256, path, tiny_clip.SHA256[tiny_clip.WEIGHTS])
        return tiny_clip.read(path)

    return {
        "checkpoint": (os.path.join(model, read_pointer(model)), lambda path: read_checkpoint(path)["state_dict"]),
        "training state": (os.path.join(model, "training_state.pth"), load_tensors),
        "pointer": (os.path.join(model, "checkpoint"), pointed),
        "results": (os.path.join(folder, "results.json"), lambda path: read_results(os.path.dirname(path))),
        "config": (os.path.join(folder, "config.yaml"), lambda path: read_config(os.path.dirname(path))),
        "weights": (weights_file, lambda path: load_clip(path).state_dict()),
        "shipped weights": (tiny_clip.WEIGHTS, tiny),
        "split": (str(root / "eurosat" / "split_zhou_EuroSAT.json"), few_shots),
        "few-shot set": (str(root / "eurosat" / "split_fewshot" / "shot_2-seed_1.json"), few_shots),
    }


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    return a == b or a != a and b != b  # NaN


@contextlib.contextmanager
def copied(path, kind, folder):
    """The path of the file, or, where it is read wherever it lies, of a copy; whole again afterwards."""
    if kind in ("split", "few-shot set"):
        with open(path, "rb") as file:
            whole = file.read()
        yield path
        with open(path, "wb") as file:
            file.write(whole)
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    yield shutil.copy(path, folder)


@few_or_many(90, 2700)
def test_damaged_files(files, tmp_path, tally, attempts):
    chance, expected = random.Random(attempts), {kind: read(path) for kind, (path, read) in files.items()}
    kinds = [kind for kind in files if kind != "shipped weights"] + ["shipped weights"] * (attempts > 100)
    for number in range(attempts):
        kind = kinds[number % len(kinds)]
        path, read = files[kind]
        with copied(path, kind, str(tmp_path / "copy")) as target:
            with open(target, "rb") as file:
                whole = file.read()
            at, to = sorted(chance.randrange(len(whole)) for _ in range(2))
            what = chance.choice(list(DAMAGE))
            damaged = DAMAGE[what](chance, whole, at, to)
            with open(target, "wb") as file:
                file.write(damaged)
            try:
                found = read(target)
            except UserError as error:
                assert "\n" not in str(error), (kind, what)
                tally("unchanged" if damaged == whole else f"refused: {kind}")
                assert damaged != whole
            else:
                if kind in ("split", "few-shot set"):  # which are drawn again, the same
                    assert len(found[0]) == 6
                assert same(expected[kind], found), (kind, what)
                tally("unchanged" if damaged == whole else f"read as before: {kind}")
