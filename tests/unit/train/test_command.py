"""The command line: what it takes, what it says, its exit codes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from train.__main__ import main
from train.errors import TrainError
from train.progress import Progress


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is named here."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_SERVER_HOST", raising=False)


def test_help_tells_commands_exit_codes_and_environment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--help` is enough to begin with."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in ("promote", "rollback", "exit codes", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        assert word in said
    assert "0  promoted, made challenger, or nothing has changed" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nosuch"],
        ["promote", "--reason", "x"],
        ["promote", "--version", "1"],
        ["promote", "--version", "0", "--reason", "x"],
        ["promote", "--version", "last", "--reason", "x"],
        ["rollback"],
        ["rollback", "--reason", "  "],
        ["rollback", "--reason", "x" * 1001],
    ],
)
def test_arguments_that_make_no_sense_exit_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A version and a reason are required, and must be such."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m train" in capsys.readouterr().err


def test_missing_config_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a command it means run; an expected error has no traceback."""
    missing = tmp_path / "nosuch.yaml"
    assert main(["--config", str(missing)]) == 2
    assert capsys.readouterr().err == f"error: {missing}: no such file\n"


def test_without_a_server_it_says_how_to_name_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No tracking address is exit code 4, and the line says the way out."""
    config = tmp_path / "train_config.yaml"
    config.write_text("")
    assert main(["rollback", "--reason", "x", "--config", str(config)]) == 4
    assert "set MLFLOW_TRACKING_URI" in capsys.readouterr().err


def test_every_error_owns_an_exit_code() -> None:
    """2 for settings and data, 3 for the gate, 4 for what is out of reach."""
    codes = {error.__name__: error.exit_code for error in TrainError.__subclasses__()}
    assert codes == {
        "BadSettingsError": 2,
        "BadDataError": 2,
        "GateRefusedError": 3,
        "UnreachableError": 4,
    }


def test_without_a_terminal_each_step_is_one_plain_line() -> None:
    """Logs of a job show number, name, note and seconds."""
    output = io.StringIO()
    progress = Progress(2, Console(file=output, force_terminal=False))
    with progress.step("fit") as step:
        step.advance(1, 2)
        step.note = "2 epochs"
    with progress.step("gate"):
        pass
    assert output.getvalue() == "[1/2] fit: 2 epochs, 0.0 s\n[2/2] gate: 0.0 s\n"


def test_on_a_terminal_there_is_a_bar_too() -> None:
    """The bar is drawn while the step runs, and its line stays."""
    output = io.StringIO()
    progress = Progress(1, Console(file=output, force_terminal=True, width=100))
    with progress.step("fit") as step:
        step.advance(1, 2)
    assert "\x1b[" in output.getvalue()
    assert "[1/1] fit: " in output.getvalue()


def test_step_that_fails_has_no_line() -> None:
    """Only what ended well is told; the error has a line of its own."""
    output = io.StringIO()
    with (
        pytest.raises(ValueError, match="broken"),
        Progress(1, Console(file=output)).step("fit"),
    ):
        raise ValueError("broken")
    assert output.getvalue() == ""
