"""Where MLflow is, and who asks it: from files, variables or the address, and shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract import tracking
from contract.tracking import Credentials, MlflowUnreachableError

URI = "http://somebody:s3cret@127.0.0.1:9/mlflow"


def write(file: Path, user: str, password: str = "x%y") -> str:
    """Write a file with credentials; return its path."""
    lines = (f"mlflow_tracking_username = {user}", f"mlflow_tracking_password = {password}")
    file.write_text("\n".join(("[mlflow]", *lines, "")))
    return str(file)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (URI, "http://127.0.0.1:9/mlflow"),
        ("https://token@m.example", "https://m.example"),
        ("http://a:b@c@m:1", "http://m:1"),
        ("http://m:1", "http://m:1"),
    ],
)
def test_an_address_is_shown_without_who_asks(uri: str, shown: str) -> None:
    """Neither user nor password."""
    assert tracking.without_password(uri) == shown


def test_who_asks_is_said_by_a_file_before_variables_before_the_address(tmp_path: Path) -> None:
    """The nearest to a secret store wins."""
    variables = {"MLFLOW_TRACKING_USERNAME": "variable", "MLFLOW_TRACKING_PASSWORD": "v"}
    file = write(tmp_path / "reader", "reader")
    assert tracking.credentials("http://m:1", {}) is None
    assert tracking.credentials("http://a%40b:c%3Ad@m:1", {}) == Credentials("a@b", "c:d")
    assert tracking.credentials(URI, variables) == Credentials("variable", "v")
    environ = {**variables, "MLFLOW_CREDENTIALS_FILE": file}
    assert tracking.credentials(URI, environ) == Credentials("reader", "x%y")


def test_who_writes_is_somebody_else_if_a_file_says_so(tmp_path: Path) -> None:
    """Without one, writers are who the readers are."""
    environ = {"MLFLOW_CREDENTIALS_FILE": write(tmp_path / "reader", "reader")}
    writer = tracking.credentials(URI, environ, writes=True)
    assert writer == Credentials("reader", "x%y")
    environ["MLFLOW_WRITER_CREDENTIALS_FILE"] = write(tmp_path / "writer", "writer")
    assert tracking.credentials(URI, environ, writes=True) == Credentials("writer", "x%y")
    assert tracking.credentials(URI, environ) == Credentials("reader", "x%y")


@pytest.mark.parametrize(
    "text", [None, "s3cret", "[mlflow]\ns3cret\n", "[mlflow]\nuser = s3cret\n"]
)
def test_a_file_without_credentials_is_named_and_not_shown(
    tmp_path: Path, text: str | None
) -> None:
    """What stands in it may be a secret all the same."""
    file = tmp_path / "reader"
    if text is not None:
        file.write_text(text)
    with pytest.raises(MlflowUnreachableError, match="holds no credentials for MLflow") as caught:
        tracking.credentials(URI, {"MLFLOW_CREDENTIALS_FILE": str(file)})
    assert str(file) in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_server_that_is_away_is_named_without_the_password() -> None:
    """MLflow gets user and password by its own variables: its errors repeat addresses."""
    environ: dict[str, str] = {}
    with pytest.raises(MlflowUnreachableError, match=r"at http://127\.0\.0\.1:9/mlflow ") as caught:
        tracking.connect(URI, environ=environ)
    told: BaseException | None = caught.value
    while told is not None:
        assert "s3cret" not in str(told)
        told = told.__cause__ or told.__context__
    assert environ["MLFLOW_TRACKING_USERNAME"] == "somebody"
    assert environ["MLFLOW_TRACKING_PASSWORD"] == "s3cret"
