"""`promptbias attach`: what it puts into a checkout, and that it goes out again to the byte."""

import os
import subprocess

import msgspec
import pytest
from foreign_checkout import make_checkout, run
from hypothesis import example, given
from hypothesis import strategies as st

from promptbias.host import train_py
from promptbias.host.attach import RECORD, main
from promptbias.utils.errors import UserError
from promptbias.utils.files import checksum

STATEMENTS = [
    "import dassl",
    "from __future__ import annotations",
    "'''docstring\n\nof lines'''",
    "x = '''\nimport promptbias\n'''",
    "# a comment: café",
    "",
    "def f():\n    '''inner'''\n    return 1",
    "@decorator\n@another\nclass A: pass",
    "'''docstring'''; import dassl",
    "from __future__ import division; x = 1",
    "if True: \\\n    pass",
    "\\\nimport dassl",
    "\x0cimport dassl",
    "x = (1,\n2)",
    "not python (",
]
SCRIPTS = st.builds(
    lambda head, lines, ending, last, bom: (
        (b"\xef\xbb\xbf" if bom else b"")
        + ending.join("\n".join([*head, *lines]).split("\n")).encode()
        + (ending.encode() if last else b"")
    ),
    st.lists(st.sampled_from(["#!/usr/bin/env python", "# -*- coding: utf-8 -*-"]), max_size=2),
    st.lists(st.sampled_from(STATEMENTS), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.booleans(),
)


@given(st.one_of(SCRIPTS, st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
@example("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"))
@example(b"# coding: no-such-encoding\nx = 1\n")
@example(b"x = 1")
def test_the_line_goes_in_and_out_to_the_byte(source):
    try:
        attached = train_py.insert(source)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert train_py.remove(attached) == source
    if not train_py.has_import(source):
        assert train_py.has_import(attached) and train_py.remove(source) == source
    if compiles(source):
        assert compiles(attached)  # __future__ still stands where it must


def compiles(source):
    try:
        compile(source, "train.py", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


@pytest.mark.parametrize(
    "source, expected",
    [
        (b"import dassl\n", b"{line}\nimport dassl\n"),
        (b"import dassl", b"{line}\nimport dassl"),
        (b"\xef\xbb\xbfimport dassl\r\nx = 1\r\n", b"\xef\xbb\xbf{line}\r\nimport dassl\r\nx = 1\r\n"),
        (
            b"#!python\n# coding: utf-8\n'''doc'''\n\nimport dassl\n",
            b"#!python\n# coding: utf-8\n'''doc'''\n\n{line}\nimport dassl\n",
        ),
        (
            b"'''doc'''\rfrom __future__ import annotations\r@a\rdef f(): pass",
            b"'''doc'''\rfrom __future__ import annotations\r{line}\r@a\rdef f(): pass",
        ),
    ],
)
def test_the_line_stands_before_the_first_statement(source, expected):
    assert train_py.insert(source) == expected.replace(b"{line}", train_py.LINE)


@pytest.mark.parametrize(
    "source", [b"", b"# nothing\n", b"'''doc'''; import dassl\n", b"a b\n", b"\x00", b"# coding: x\n"]
)
def test_a_script_without_a_place_is_refused(source):
    with pytest.raises(UserError, match="train.py"):
        train_py.insert(source)


@pytest.fixture
def checkout(tmp_path):
    folder = make_checkout(tmp_path / "MaPLe")
    (folder / "train.py").write_bytes((folder / "train.py").read_bytes().replace(b"\n", b"\r\n").rstrip())
    os.chmod(folder / "train.py", 0o755)
    (folder / "configs" / "trainers" / "IVLP").mkdir(parents=True)
    (folder / "configs" / "trainers" / "IVLP" / "theirs.yaml").write_text("OPTIM: {LR: 1}\n")
    return folder


def contents(folder):
    """Every file and folder with its bytes and permissions."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = (path.read_bytes() if path.is_file() else None, path.stat().st_mode)
    return found


def attach(folder, *flags):
    return main([str(folder), *flags])


def test_attach_is_idempotent_and_detach_restores_every_byte(checkout, capsys):
    before = contents(checkout)
    assert attach(checkout, "--check") == 1 and contents(checkout) == before
    assert attach(checkout) == 0 and attach(checkout, "--check") == 0
    after = contents(checkout)
    assert {name for name in before if before[name] != after[name]} == {"train.py"}
    assert "configs/trainers/IVLP/vit_b16_deep.yaml" in after and "configs/trainers/_base_/sgd.yaml" in after
    assert attach(checkout) == 0 and contents(checkout) == after
    assert attach(checkout, "--detach") == 0 and contents(checkout) == before
    assert attach(checkout, "--detach") == 0 and contents(checkout) == before
    assert "nothing to do: not attached" in capsys.readouterr().out


def test_what_is_not_ours_is_never_overwritten(checkout):
    theirs = checkout / "configs" / "trainers" / "IVLP" / "vit_b16_deep.yaml"
    theirs.write_text("theirs\n")
    before = contents(checkout)
    for flags in ([], ["--check"]):
        with pytest.raises(UserError, match="vit_b16_deep.yaml is not from promptbias; move it away"):
            attach(checkout, *flags)
    assert contents(checkout) == before


def test_what_was_edited_since_stays(checkout, capsys):
    before = contents(checkout)
    attach(checkout)
    edited = checkout / "configs" / "trainers" / "IVLP" / "vit_b16_deep.yaml"
    edited.write_text(edited.read_text() + "# mine\n")
    with pytest.raises(UserError, match="vit_b16_deep.yaml was edited; move it away"):
        attach(checkout)
    attach(checkout, "--detach")
    assert "vit_b16_deep.yaml was edited and stays" in capsys.readouterr().out
    edited.unlink()
    assert contents(checkout) == before


@pytest.mark.parametrize("changed", [["old.sh"], ["old.sh", "main.sh"]])
def test_files_of_an_earlier_version_are_replaced(changed, checkout):
    attach(checkout)
    after = contents(checkout)
    record = msgspec.json.decode((checkout / RECORD).read_bytes())
    for name in changed:
        path = checkout / "scripts" / "promptbias" / name
        path.write_text("as it was\n")
        record["files"][f"scripts/promptbias/{name}"] = checksum(path)
    (checkout / RECORD).write_bytes(msgspec.json.encode(record))
    assert attach(checkout, "--check") == 1 and attach(checkout) == 0
    assert contents(checkout) == after


def test_a_line_that_the_author_wrote_is_enough(tmp_path):
    folder = make_checkout(tmp_path / "CoOp", 1)
    source = (folder / "train.py").read_bytes()
    attach(folder)
    assert (folder / "train.py").read_bytes() == source
    attach(folder, "--detach")
    assert (folder / "train.py").read_bytes() == source


@pytest.mark.parametrize("record", ["{", '{"files": [1]}', '{"files": {"../elsewhere": "0"}}', '{"folders": ["/etc"]}'])
def test_a_record_that_is_not_ours_is_refused(record, checkout):
    (checkout / RECORD).write_text(record)
    with pytest.raises(UserError, match=RECORD):
        attach(checkout, "--detach")


def test_a_folder_without_train_py_is_refused(tmp_path):
    with pytest.raises(UserError, match="it has no train.py"):
        attach(tmp_path)


@pytest.mark.slow
def test_an_attached_checkout_runs(checkout, weights_file):
    """With the trainer that needs no training, since only the way to it is tested."""
    attach(checkout)
    yaml = "configs/trainers/ZeroshotCLIP/vit_b16.yaml"
    done = run(checkout, ["train.py"], "PromptBiasZeroshotCLIP", weights_file, yaml)
    assert done.returncode == 0 and (checkout / "output" / "results.json").exists(), done.stderr


@pytest.mark.parametrize("script", ["main.sh", "base2new.sh"])
def test_run_scripts_call_the_checkouts_train_py(script, checkout, tmp_path):
    attach(checkout)
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\necho "$@"\n')
    python.chmod(0o755)
    command = ["bash", f"scripts/promptbias/{script}", "PromptBiasIVLP", "eurosat", "vit_b16_deep", "16", "SEED", "1"]
    environment = {**os.environ, "PYTHON": str(python), "SEEDS": "1 2", "DATA": "/data", "OUTPUT": "out"}
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == (2 if script == "main.sh" else 4), done.stderr
    for line in lines:
        assert line.startswith("-m promptbias run train.py --root /data --seed ")
        assert "--config-file configs/trainers/IVLP/vit_b16_deep.yaml" in line and line.endswith("SEED 1")
    usage = subprocess.run(command[:2], cwd=checkout, capture_output=True, text=True)
    assert usage.returncode == 2 and "METHOD DATASET CFG SHOTS" in usage.stderr
