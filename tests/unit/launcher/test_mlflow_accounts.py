"""The secrets of deploy/compose.production.yml: made once, for their owner only."""

from pathlib import Path

import pytest

from contract import tracking
from launcher import mlflow_accounts
from launcher.__main__ import main
from launcher.errors import SettingError
from tests.integration.deploy import compose
from train import signing


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


def test_the_production_file_names_what_the_commands_make(tmp_path: Path) -> None:
    """`launcher secrets` and `train signing-key`; the certificate is one's own."""
    made = {file.name for file in mlflow_accounts.make_secrets(tmp_path)}
    pems = {file.name for file in signing.make_keys(tmp_path / "signing")}
    content = compose.read(compose.PRODUCTION)
    files = {Path(one["file"]).name for one in content["secrets"].values()}
    assert files == {*made, "tls.pem"}
    web = content["services"]["web"]
    assert "./var/secrets/signing:/run/signing:ro" in web["volumes"]
    named = [Path(one) for one in web["environment"].values() if one.startswith("/run/signing/")]
    assert {one.name for one in named} == pems
    job = content["services"]["train"]["environment"]
    assert job.items() <= web["environment"].items()


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


def test_secrets_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands where the folder should: nobody may write there, root neither."""
    (tmp_path / "taken").touch()
    assert main(["secrets", "--to", str(tmp_path / "taken")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "secrets can't be written" in said
    assert "--to" in said


def test_an_administrator_that_is_missing_is_named_and_the_file_not_shown(tmp_path: Path) -> None:
    """With the way out."""
    mlflow_accounts.make_secrets(tmp_path)
    (tmp_path / mlflow_accounts.SERVER).write_text("s3cret")
    with pytest.raises(SettingError, match="python -m launcher secrets") as caught:
        mlflow_accounts.establish("http://127.0.0.1:9", tmp_path, "diabetes")
    assert "s3cret" not in str(caught.value)
