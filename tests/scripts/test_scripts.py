"""The scripts, as a user starts them, on miniature datasets in CoOp's layout on disk."""

import json
import os
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT, THREE_BLOCKS
from forked import forked
from miniatures import MINIATURES

from promptbias.analysis.__main__ import main as analysis
from promptbias.experiments import protocols
from promptbias.experiments.runs import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """$DATA without split files."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("eurosat", "imagenet", "imagenet_a", "imagenetv2"):
        MINIATURES[name][1](folder)
    return folder


@pytest.fixture
def bash(tmp_path, data):
    """bash(script, *argv): run it with DATA, OUTPUT and one seed; returns the finished process."""

    def run(script, *argv, **variables):
        environment = {
            **os.environ,
            "DATA": str(data),
            "OUTPUT": str(tmp_path / "output"),
            "SEEDS": "1",
            "PYTHON": sys.executable,
            "HOME": str(tmp_path),
            **variables,
        }
        return subprocess.run(
            ["bash", os.path.join(ROOT, script), *argv], cwd=tmp_path, capture_output=True, text=True, env=environment
        )

    return run


@pytest.fixture
def perform(tmp_path, data, monkeypatch, capsys, tmp_path_factory):
    """perform(method, protocol, *argv, **environment): what the scripts do, in this process but for its runs, which are
    forked; returns what it printed. The scripts themselves are the other tests'.
    """
    folder = tmp_path_factory.mktemp("printed")

    def in_foreground(run):
        done = forked([os.path.join(ROOT, "train.py"), *run.argv], ROOT, folder)
        sys.stderr.write(done.stderr)
        return done.returncode

    def run(method, protocol, *argv, **variables):
        for key, value in {"DATA": str(data), "OUTPUT": str(tmp_path / "output"), "SEEDS": "1", **variables}.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(Run, "perform_in_foreground", in_foreground)
        monkeypatch.setattr(protocols, "call", lambda argv: analysis(argv[1:]))
        try:
            protocols.main([method, protocol, *argv])
        except SystemExit as end:
            assert not end.code
        return capsys.readouterr().out

    return run


def options(weights):
    """The real configuration on a CLIP of three blocks."""
    return [
        "MODEL.BACKBONE.NAME",
        weights,
        "INPUT.SIZE",
        "(32, 32)",
        "OPTIM.MAX_EPOCH",
        "1",
        "DATALOADER.NUM_WORKERS",
        "0",
        *THREE_BLOCKS,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, runs",
    [
        ("scripts/bias/main.sh", "BiasTuning/vit_b16_1shots"),
        ("scripts/ivlp/main.sh", "IVLP/vit_b16_prompt_1shots"),
    ],
)
def test_few_shot_on_eurosat(bash, data, weights_file, tmp_path, script, runs):
    done = bash(script, "eurosat", "1", *options(weights_file))
    assert done.returncode == 0, done.stderr
    assert "zero-shot" in done.stdout and "mean" in done.stdout
    folder = tmp_path / "output" / "eurosat"
    results = json.loads((folder / runs / "seed1" / "results.json").read_text())
    assert results["counts"]["train"] == 3 and set(results["per_class"]) == {
        "Annual Crop Land",
        "Forest",
        "Sea or Lake",
    }
    zero_shot = json.loads((folder / "ZeroshotCLIP" / "vit_b16" / "results.json").read_text())
    assert zero_shot["template"] == "a centered satellite photo of {}."
    assert (data / "eurosat" / "split_zhou_EuroSAT.json").exists()


def results(tmp_path, dataset, *folders):
    """results.json of a run."""
    return json.loads(tmp_path.joinpath("output", dataset, *folders, "results.json").read_text())


def numbers(line):
    """The numbers at the end of a table's line."""
    return [float(word) for word in line.split() if word.replace(".", "").isdigit()]


@pytest.mark.slow
def test_few_shots(perform, tmp_path, weights_file):
    text = perform("BiasTuning", "few_shots", "eurosat", *options(weights_file), SHOTS="1 2")
    found = {shots: results(tmp_path, "eurosat", "BiasTuning", f"vit_b16_{shots}shots", "seed1") for shots in (1, 2)}
    assert [found[shots]["counts"]["train"] for shots in (1, 2)] == [3, 6]
    curve = [line for line in text.splitlines() if line.startswith("EuroSAT")]
    assert [numbers(line) for line in curve] == [
        [shots, pytest.approx(found[shots]["accuracy"], abs=0.05)] for shots in (1, 2)
    ]
    assert (tmp_path / "output" / "curves" / "curves-shots_eurosat_BiasTuning_vit_b16.png").stat().st_size > 5000


@pytest.mark.slow
def test_base_to_new(perform, tmp_path, weights_file):
    text = perform("IVLP", "base2new", "eurosat", "1", *options(weights_file))
    runs = "IVLP/vit_b16_prompt_1shots"
    base, new = (results(tmp_path, "eurosat", f"{runs}_{part}", "seed1") for part in ("base", "new"))
    assert set(base["per_class"]) == {"Annual Crop Land", "Forest"} and set(new["per_class"]) == {"Sea or Lake"}
    last = next(line for line in text.splitlines() if line.startswith("mean"))
    pair = [base["accuracy"], new["accuracy"]]
    expected = statistics.harmonic_mean(pair) if all(pair) else 0
    assert numbers(last) == pytest.approx([*pair, expected], abs=0.05)
    assert not (
        tmp_path / "output" / "eurosat" / f"{runs}_new" / "seed1" / "tensorboard"
    ).exists()  # nothing was trained


@pytest.mark.slow
def test_domain_generalisation(perform, tmp_path, weights_file):
    targets = ["imagenetv2", "imagenet_a"]
    text = perform("IVLP", "dg", "1", *options(weights_file), TARGETS=" ".join(targets))
    assert results(tmp_path, "imagenet", "IVLP", "vit_b16_prompt_1shots", "seed1")["counts"]["train"] == 4
    accuracies = []
    for target in targets:
        tested = results(tmp_path, target, "IVLP", "vit_b16_prompt_1shots_from_imagenet", "seed1")
        assert tested["seconds"]["train"] == 0 and tested["dataset"] == MINIATURES[target][0]
        accuracies.append(tested["accuracy"])
    lines = text.splitlines()
    shown = [numbers(next(line for line in lines if line.startswith(name)))[0] for name in (*targets, "average")]
    assert shown == pytest.approx([*accuracies, statistics.mean(accuracies)], abs=0.05)


@pytest.mark.parametrize("script, count", [("xd", 10), ("dg", 4)])
def test_transfer_targets_are_datasets_of_ours(script, count):
    targets = protocols.TARGETS[script].split()
    assert len(targets) == len(set(targets)) == count and set(targets) <= set(MINIATURES)
    assert all(os.path.exists(os.path.join(ROOT, "configs", "datasets", target + ".yaml")) for target in targets)


@pytest.mark.parametrize("folder, method", [("bias", "BiasTuning"), ("ivlp", "IVLP"), ("zsclip", "ZeroshotCLIP")])
def test_the_scripts_of_a_method_are_one_line_each(folder, method):
    names = sorted(os.listdir(os.path.join(ROOT, "scripts", folder)))
    assert names == (["main.sh"] if folder == "zsclip" else [f"{name}.sh" for name in sorted(protocols.ARGUMENTS)])
    for name in names:
        with open(os.path.join(ROOT, "scripts", folder, name)) as file:
            first, line = file.read().splitlines()
        protocol = name.removesuffix(".sh")
        assert first == "#!/bin/bash"
        assert line.split("#")[0].rstrip() == f'exec bash "$(dirname "$0")/../run.sh" {method} {protocol} "$@"'


@pytest.mark.slow
def test_a_failing_seed_fails_the_script(bash, weights_file):
    done = bash(
        "scripts/bias/main.sh", "eurosat", "1", *options(weights_file), "OPTIM.LR", "1e30", "OPTIM.MAX_EPOCH", "4"
    )
    assert done.returncode != 0 and "the parameters are unusable" in done.stderr and "mean" not in done.stdout


def test_missing_weights_stop_with_one_message(bash, tmp_path):
    done = bash(
        "scripts/bias/main.sh", "eurosat", "1", http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9"
    )
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ") and "openaipublic" in message and "digits" in message
    assert os.path.join(str(tmp_path), ".cache", "clip", "ViT-B-16.pt") in message


def test_missing_images_stop_with_one_message(bash, tmp_path):
    done = bash("scripts/bias/main.sh", "eurosat", "1", DATA=str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1 and str(tmp_path / "nothing" / "eurosat" / "2750") in done.stderr
    assert "http" in done.stderr and "digits" in done.stderr


@pytest.mark.parametrize(
    "script, argv, variables, said",
    [
        ("bias/main.sh", ["digits", "abc"], {}, 'SHOTS is "abc"'),
        ("bias/main.sh", ["digitss", "1"], {}, "there is no dataset"),
        ("ivlp/main.sh", ["digits", "1", "deeep"], {}, "there are: tiny_deep"),
        ("bias/main.sh", ["digits", "1", "tiny", "DATASET.NUM_SHOTS"], {}, "KEY VALUE pairs"),
        ("bias/main.sh", ["digits", "1"], {"SEEDS": "1,2"}, "whole numbers"),
        ("bias/main.sh", ["digits", "1"], {"SEEDS": "01"}, "whole numbers"),
        ("bias/few_shots.sh", ["digits", "16"], {}, 'no configuration "16"'),
        ("bias/xd.sh", ["imagenet", "16"], {}, 'SHOTS is "imagenet"'),
        ("run.sh", ["BiasTunning", "main", "digits", "16"], {}, 'did you mean "BiasTuning"?'),
        ("run.sh", ["ivlp", "base2neww", "digits", "16"], {}, 'did you mean "base2new"?'),
        ("run.sh", ["ZeroshotCLIP", "base2new", "digits", "16"], {}, "its only protocol is main"),
        ("ivlp/dg.sh", ["16"], {"TARGETS": "imagenett"}, 'there is no dataset "imagenett"'),
        ("zsclip/main.sh", ["digits", "tiny", "DATSET.TEMPLATE", "{}"], {}, 'did you mean "DATASET.TEMPLATE"'),
    ],
)
def test_wrong_arguments_are_one_sentence_before_anything_runs(bash, tmp_path, script, argv, variables, said):
    done = bash(f"scripts/{script}", *argv, **variables)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr and not list(tmp_path.glob("output/**/results.json"))


@pytest.mark.slow
def test_zero_shot_is_of_the_clip_that_is_tuned(perform, tmp_path):
    """And of a configuration's name the backbone may be left out; and ~ is the home folder."""
    home = {"HOME": str(tmp_path), "DATA": "~/own data"}
    perform("IVLP", "main", "digits", "1", "shallow", "OPTIM.MAX_EPOCH", "1", SEEDS="0", **home)
    tuned = results(tmp_path, "digits", "IVLP", "tiny_shallow_1shots", "seed0")
    assert tuned["backbone"] == results(tmp_path, "digits", "ZeroshotCLIP", "tiny")["backbone"] == "tiny"
    assert tuned["seed"] == 0 and (tmp_path / "own data" / "digits" / "images").is_dir()


@pytest.mark.parametrize("script, argv", [("scripts/bias/main.sh", ["digits"]), ("scripts/zsclip/main.sh", [])])
def test_without_its_arguments_a_script_says_how_it_is_used(bash, script, argv):
    done = bash(script, *argv)
    assert done.returncode == 1 and "usage: bash scripts/run.sh" in done.stderr
