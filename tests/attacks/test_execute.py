"""Files that carry code: whatever reads them refuses or ignores it, and nothing is executed."""

import builtins
import functools
import io
import itertools
import operator
import os
import pickle
import random
import subprocess

import pytest
import torch
from attack_tally import few_or_many

from promptbias.datasets.coop_pickle import read_pickle
from promptbias.engine.checkpoints import read_checkpoint
from promptbias.model.loading import load_clip
from promptbias.utils.errors import UserError
from promptbias.utils.yaml_files import read_yaml


class Call:
    """Unpickles as the result of a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def payloads(folder):
    """Objects that create the folder `folder` when they are unpickled, each by another way."""
    return {
        "os.mkdir": Call(os.mkdir, folder),
        "os.system": Call(os.system, f"mkdir {folder}"),
        "subprocess": Call(subprocess.call, ["mkdir", folder]),
        "eval": Call(eval, f"__import__('os').mkdir({folder!r})"),
        "exec": Call(exec, f"import os; os.mkdir({folder!r})"),
        "import": Call(operator.methodcaller("mkdir", folder), Call(builtins.__import__, "os")),
        "partial": Call(functools.partial(os.mkdir, folder)),
        "map": Call(list, Call(map, os.mkdir, [folder])),
        "nested pickle": Call(pickle.loads, pickle.dumps(Call(os.mkdir, folder))),
        "nested torch.load": Call(torch.load, io.BytesIO(b""), None, Call(os.mkdir, folder)),
    }


PLACES = {
    "the file": lambda evil: evil,
    "state_dict": lambda evil: {"state_dict": evil},
    "a parameter": lambda evil: {"state_dict": {"vision.bias": evil}},
    "a key": lambda evil: {"state_dict": {}, Key(evil): 1},
    "an extra": lambda evil: {"state_dict": {"vision.bias": torch.zeros(1)}, "about": {"x": [evil]}},
    "a few-shot set": lambda evil: {"train": [evil], "val": []},
}


class Key:
    """A dictionary key that is unpickled as what `evil` is."""

    def __init__(self, evil):
        self.evil = evil

    def __reduce__(self):
        return str, (self.evil,)


def torch_zip(content, path, protocol):
    torch.save(content, path, pickle_protocol=protocol)


def torch_legacy(content, path, protocol):
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)


def plain_pickle(content, path, protocol):
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol)


def dassl_load(path):
    from dassl.utils import load_checkpoint

    return load_checkpoint(path)


READERS = {"checkpoint": read_checkpoint, "weights": load_clip, "few-shot cache": read_pickle, "dassl": dassl_load}


@few_or_many(60, 4 * 3 * 2 * 6 * 10)
def test_no_pickle_is_executed(tmp_path, tally, attempts):
    marker = str(tmp_path / "executed")
    ways = list(itertools.product(READERS, (torch_zip, torch_legacy, plain_pickle), (2, 4), PLACES, payloads(marker)))
    for reader, write, protocol, place, payload in random.Random(0).sample(ways, attempts):
        path = str(tmp_path / "file")
        write(PLACES[place](payloads(marker)[payload]), path, protocol)
        try:
            READERS[reader](path)
            tally("ignored")
        except UserError as error:
            assert "\n" not in str(error)
            tally("refused")
        except pickle.UnpicklingError:
            assert reader == "dassl"  # as upstream's
            tally("refused")
        assert not os.path.exists(marker), (reader, write.__name__, protocol, place, payload)


def test_the_payloads_are_real(tmp_path):
    """Each of them does execute where pickle itself reads it."""
    for name, payload in payloads(str(tmp_path / "x")).items():
        if name != "nested torch.load":  # which pickles its inner call first
            pickle.loads(pickle.dumps(payload))
            os.rmdir(tmp_path / "x")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir ['{}']",
        "A: !!python/object/apply:os.system ['mkdir {}']",
        "A: !!python/object/new:os.mkdir ['{}']",
        "!!python/name:os.mkdir {}",
        "? !!python/object/apply:os.mkdir ['{}']\n: 1",
    ],
)
def test_no_yaml_is_executed(tmp_path, tally, text):
    (tmp_path / "evil.yaml").write_text(text.format(tmp_path / "executed"))
    with pytest.raises(UserError):
        read_yaml(str(tmp_path / "evil.yaml"))
    assert not (tmp_path / "executed").exists()
    tally("refused")
