"""The secrets of deploy/compose.production.yml: made once, for their owner only."""

from pathlib import Path

import pytest

from contract import tracking
from launcher import mlflow_accounts
from launcher.__main__ import main
from launcher.errors import SettingError


def test_secrets_are_for_their_owner_only_and_each_is_another(tmp_path: Path) -> None:
    """A folder that nobody else may list, and files that nobody else may read."""
    folder = tmp_path / "secrets"
    made = mlflow_accounts.make_secrets(folder)
    assert {file.name for file in made} == {
        "mlflow_auth",
        "mlflow_flask_key",
        *mlflow_accounts.ACCOUNTS,
    }
    assert folder.stat().st_mode & 0o066 == 0
    assert [file for file in made if file.stat().st_mode & 0o077] == []
    found = [
        tracking.credentials("", {tracking.READER_VARIABLE: str(folder / name)})
        for name in mlflow_accounts.ACCOUNTS
    ]
    assert [one.user for one in found if one] == list(mlflow_accounts.ACCOUNTS)
    assert len({one.password for one in found if one}) == 3


def test_secrets_that_are_there_stay(tmp_path: Path) -> None:
    """Only what is missing is made."""
    made = mlflow_accounts.make_secrets(tmp_path)
    before = {file: file.read_text() for file in made}
    (tmp_path / mlflow_accounts.READER).unlink()
    assert mlflow_accounts.make_secrets(tmp_path) == [tmp_path / mlflow_accounts.READER]
    changed = {file.name for file, text in before.items() if file.read_text() != text}
    assert changed == {mlflow_accounts.READER}


def test_the_command_says_what_it_made_and_shows_none_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paths, and no passwords."""
    assert main(["secrets", "--to", str(tmp_path / "secrets")]) == 0
    said = "".join(capsys.readouterr())
    assert str(tmp_path / "secrets" / "mlflow_reader") in said
    key = (tmp_path / "secrets" / "mlflow_flask_key").read_text()
    assert key not in said


def test_an_administrator_that_is_missing_is_named_and_the_file_not_shown(tmp_path: Path) -> None:
    """With the way out."""
    mlflow_accounts.make_secrets(tmp_path)
    (tmp_path / mlflow_accounts.SERVER).write_text("s3cret")
    with pytest.raises(SettingError, match="python -m launcher secrets") as caught:
        mlflow_accounts.establish("http://127.0.0.1:9", tmp_path, "diabetes")
    assert "s3cret" not in str(caught.value)
