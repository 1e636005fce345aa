"""Errors that a user can cause: hints and what the command line prints."""

import pytest

from promptbias.utils import errors
from promptbias.utils.errors import UserError, cli, nearest


def test_hints_for_an_unknown_name():
    assert nearest("EuroSAT", ["eurosat", "dtd"]) == 'did you mean "eurosat"?'
    assert nearest("imagenet", ["eurosat", "dtd"]) == "known: dtd, eurosat"
    assert nearest("imagenet", ["eurosat", "dtd"], ["a few"]) == "known: a few"
    assert nearest("imagenet", []) == "known: none"


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("error", [UserError("no such dataset; use another"), OSError("no such dataset; use another")])
def test_what_a_user_can_fix_is_one_line(error, capsys):
    with pytest.raises(SystemExit) as exit:
        cli(failing(error))
    assert exit.value.code == 1 and capsys.readouterr().err == "error: no such dataset; use another\n"


@pytest.mark.parametrize("in_checkout, command", [(True, "pip install -e ."), (False, "pip install promptbias")])
def test_a_missing_package_says_how_to_install_it(capsys, monkeypatch, in_checkout, command):
    monkeypatch.setattr(errors, "IN_CHECKOUT", in_checkout)
    with pytest.raises(SystemExit) as exit:
        cli(lambda: __import__("a_module_that_nobody_has"))
    assert exit.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: a_module_that_nobody_has is not installed; run `{command}`")


def test_an_interrupt_says_what_it_has_to_say(capsys):
    for message, printed in (("", "interrupted\n"), ("run it again to resume", "run it again to resume\n")):
        with pytest.raises(SystemExit) as exit:
            cli(failing(KeyboardInterrupt(message)))
        assert exit.value.code == 130 and capsys.readouterr().err == printed


def test_the_status_is_that_of_the_command():
    for status in (None, 0, 3):
        with pytest.raises(SystemExit) as exit:
            cli(lambda status=status: status)
        assert exit.value.code == status
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        cli(failing(ZeroDivisionError()))
