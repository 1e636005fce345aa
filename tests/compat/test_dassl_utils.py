"""compat/dassl: meters, registries, logs and other helpers."""

import io
import os
import re
import sys

import pytest
import torch
from dassl.utils import (
    AverageMeter,
    CheckpointError,
    ConfigError,
    ImageError,
    Logger,
    MetricMeter,
    Registry,
    check_availability,
    check_isfile,
    collect_env_info,
    listdir_nohidden,
    read_json,
    setup_logger,
    tolist_if_not,
    write_json,
)

from promptbias.utils.errors import UserError


def test_meters():
    meter = AverageMeter()
    meter.update(1.0, n=3)
    meter.update(torch.tensor(5.0))
    assert (meter.val, meter.avg, meter.count) == (5.0, 2.0, 4)
    moving = AverageMeter(ema=True)
    moving.update(10.0)
    moving.update(10.0)
    assert moving.avg == pytest.approx(1.9)
    metrics = MetricMeter(delimiter=" | ")
    metrics.update({"loss": torch.tensor(2.0), "acc": 50.0})
    metrics.update({"loss": 1.0, "acc": 100.0})
    metrics.update(None)
    assert str(metrics) == "loss 1.0000 (1.5000) | acc 100.0000 (75.0000)"
    with pytest.raises(TypeError, match="list"):
        metrics.update([1.0])


def test_a_registry():
    registry = Registry("METHOD")

    @registry.register()
    class Mine:
        pass

    assert registry.get("Mine") is Mine and registry.registered_names() == ["Mine"]
    with pytest.raises(KeyError, match="Mine"):
        registry.register(Mine)
    registry.register(Mine, force=True)
    with pytest.raises(KeyError, match="Yours"):
        registry.get("Yours")


def test_the_log_holds_what_is_printed(tmp_path, monkeypatch):
    for _ in range(2):
        console = io.StringIO()
        monkeypatch.setattr(sys, "stdout", console)
        setup_logger(str(tmp_path / "run"))
        print("to both")
        assert isinstance(sys.stdout, Logger) and not sys.stdout.isatty()
        sys.stdout.close()
        assert console.getvalue() == "to both\n"
    logs = sorted(os.listdir(tmp_path / "run"))
    assert logs[0] == "log.txt" and re.fullmatch(r"log\.txt-\d{4}(-\d\d){5}", logs[1])
    assert all((tmp_path / "run" / log).read_text() == "to both\n" for log in logs)
    setup_logger(None)
    setup_logger(str(tmp_path / "other.log"))
    sys.stdout.close()
    assert (tmp_path / "other.log").exists()


def test_a_log_that_cannot_be_written_is_one_sentence(capsys):
    log = Logger("/dev/full")
    with pytest.raises(UserError, match="cannot write /dev/full .No space left on device"):
        log.write("a line\n")
    log.write("for the console\n")
    log.flush()
    assert capsys.readouterr().out == "for the console\n"


def test_small_helpers(tmp_path):
    write_json({"a": [1]}, str(tmp_path / "new" / "x.json"))
    assert read_json(str(tmp_path / "new" / "x.json")) == {"a": [1]}
    (tmp_path / ".hidden").touch()
    (tmp_path / "a").touch()
    assert listdir_nohidden(str(tmp_path), sort=True) == ["a", "new"]
    assert check_isfile(str(tmp_path / "a"))
    with pytest.warns(UserWarning, match="no file"):
        assert not check_isfile(str(tmp_path / "b"))
    assert tolist_if_not(1) == [1] and tolist_if_not([1]) == [1]
    assert torch.__version__ in collect_env_info()


@pytest.mark.parametrize(
    "error, builtin", [(ConfigError, ValueError), (ImageError, OSError), (CheckpointError, RuntimeError)]
)
def test_every_error_of_a_user_is_a_user_error_and_still_a_builtin_one(error, builtin):
    for base in (UserError, builtin):
        with pytest.raises(base, match="^what is wrong$"):
            raise error("what is wrong")


def test_an_unknown_name_gets_a_hint():
    check_availability("Linear", ["Linear"])
    with pytest.raises(ConfigError, match='"linaer" is not available; did you mean "Linear"'):
        check_availability("linaer", ["Linear", "Other"])
    with pytest.raises(ConfigError, match="known: none"):
        check_availability("Linear", [])
