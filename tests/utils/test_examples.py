"""The examples in docstrings say what is true."""

import doctest
import importlib
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("promptbias", "trainers", "datasets", "analysis", "benchmarks", "tiny_clip", "compat")
FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted(Path(ROOT, package).rglob("*.py"))]
WITH_EXAMPLES = [path for path in FILES if ">>> " in Path(ROOT, path).read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_examples_in_docstrings(path):
    name = ".".join(path.with_suffix("").parts)
    inside = name.startswith(("analysis.", "trainers.", "datasets."))  # of the package, once it is installed
    try:
        module = importlib.import_module(f"promptbias.{name}" if inside else name)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_there_are_examples():
    assert len(WITH_EXAMPLES) > 10
