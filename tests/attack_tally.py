"""The attacks in tests/attacks: a few in every run of the tests, many with `pytest -m attack`; counts at the end.

A test parametrised with `few_or_many` runs with few attempts, and, marked `attack`, with many. It reports every outcome
to the fixture `tally`.
"""

import collections
import json

import pytest

OUTCOMES: collections.Counter = collections.Counter()


def few_or_many(few, many):
    """Parametrise a test's `attempts`: `few` in every run of the tests, `many` with `-m attack`."""
    return pytest.mark.parametrize("attempts", [few, pytest.param(many, marks=pytest.mark.attack)], ids=["few", "many"])


@pytest.fixture
def tally(request):
    """tally(outcome): count an outcome of this test's attack."""
    name = request.node.originalname.removeprefix("test_").replace("_", " ")
    return lambda outcome: OUTCOMES.update([(name, outcome)])


def pytest_sessionfinish(session):
    """In a worker of pytest-xdist: hand the counts to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["attacks"] = json.dumps([[*key, count] for key, count in OUTCOMES.items()])


class _FromWorkers:
    def pytest_testnodedown(self, node):
        for name, outcome, count in json.loads(getattr(node, "workeroutput", {}).get("attacks", "[]")):
            OUTCOMES[name, outcome] += count


def pytest_configure(config):
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_FromWorkers())


def pytest_terminal_summary(terminalreporter):
    if OUTCOMES and terminalreporter.config.option.markexpr == "attack":
        terminalreporter.section("attacks")
        for (name, outcome), count in sorted(OUTCOMES.items()):
            terminalreporter.write_line(f"{count:6}  {outcome:40} {name}")
