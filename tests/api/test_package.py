"""The package as people get it: installed from a wheel, used from an empty folder."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import miniatures
import pytest
from conftest import ROOT

FLOORS = [
    "utils",
    "model",
    "interp",
    "engine",
    "trainers",
    "datasets",
    "experiments",
    "exports",
    "api",
    "analysis",
    "cli",
]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The project's wheel, built with the setuptools that is here."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source") / "promptbias"
    source.mkdir()  # building leaves files behind
    for name in ("promptbias", "trainers", "analysis", "datasets", "tiny_clip", "configs", "compat"):
        shutil.copytree(os.path.join(ROOT, name), source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(os.path.join(ROOT, name), source)
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    command = [sys.executable, "-m", "pip", "wheel", *options]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """run(*argv): a process in an empty folder that finds the wheel's content and not this checkout."""
    site, cwd = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    assert subprocess.run(command, capture_output=True).returncode == 0

    def run(*argv):
        environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, env=environment)

    run.site, run.cwd = site, cwd
    return run


def test_the_wheel_claims_no_name_but_its_own(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"promptbias"}


def test_importing_has_no_side_effects(installed):
    code = """
import sys
before, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
import promptbias
assert sys.path == path and sys.meta_path == finders
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not new & {"torch", "matplotlib", "dassl", "clip", "trainers", "datasets", "yacs"}, new
promptbias.TunedCLIP, promptbias.capture
assert sys.path == path and "dassl" not in sys.modules and "matplotlib" not in sys.modules
print(promptbias.__version__)
"""
    done = installed(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_train_load_and_predict_from_an_empty_folder(installed):
    miniatures.digits(installed.cwd / "data")
    flags = ["--root", "data", "--seed", "1", "--trainer", "BiasTuning", "--output-dir", "run", "--resume", "run"]
    configs = ["--dataset-config-file", "configs/datasets/digits.yaml"]
    configs += ["--config-file", "configs/trainers/BiasTuning/tiny.yaml"]
    command = [str(installed.site / "bin" / "promptbias"), "train", *flags, *configs]
    done = installed(sys.executable, *command, "DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1")
    assert done.returncode == 0, done.stderr
    code = """
import glob, promptbias
model = promptbias.load("run")
images = sorted(glob.glob("data/digits/images/seven/*.png"))[:3]
names, probabilities = model.predict(images)
assert len(names) == 3 and probabilities.shape == (3, 10), names
with promptbias.capture(model.vision, "blocks.*.attn.pattern") as cache:
    model.predict(images)
assert len(cache) == 12
assert abs(float(promptbias.relevancy(model, images[0], "seven").patches.sum()) - 1) < 1e-4
from promptbias import cli
cli.main(["predict", "run", images[0]])
"""
    done = installed(sys.executable, "-c", code)
    assert done.stdout.startswith("data/digits/images/seven/"), done.stderr


def test_the_console_command_lists_its_commands(installed):
    done = installed(sys.executable, str(installed.site / "bin" / "promptbias"), "--help")
    assert done.returncode == 0
    for command in [
        "train",
        "experiment",
        "analysis",
        "datasets",
        "predict",
        "explain",
        "run",
        "attach",
        "export",
        "methods",
    ]:
        assert re.search(rf"\n +{command}\s", done.stdout)


def floor_of(module):
    """The floor of a module named promptbias.<part>...; None for what has none."""
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[0] == "promptbias" and parts[1] in FLOORS else None


def imports_of(path):
    """Absolute names of what a file imports when it is imported itself, relative imports resolved."""
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    package = package if package[0] == "promptbias" else ("promptbias", *package)
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def test_no_import_runs_upwards():
    folders = ["promptbias", "trainers", "datasets", "analysis"]
    files = [path for folder in folders for path in Path(ROOT, folder).rglob("*.py")]
    wrong = []
    for path in files:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        own = floor_of(name if name.startswith("promptbias.") else f"promptbias.{name}")
        for imported in imports_of(path):
            there = floor_of(imported)
            if own is not None and there is not None and there > own:
                wrong.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert not wrong


def test_files_and_functions_stay_short():
    folders = ["promptbias", "trainers", "datasets", "analysis", "compat", "tiny_clip", "benchmarks"]
    files = [path for folder in folders for path in Path(ROOT, folder).rglob("*.py")]
    long = [str(path) for path in files if len(path.read_text().splitlines()) > 300]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 50:
                long.append(f"{path}: {node.name}")
    assert not long
