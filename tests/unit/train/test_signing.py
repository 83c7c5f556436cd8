"""Keys are made once, and training signs with the one that the environment names."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from contract import manifest, names, signing
from contract.model_directory import list_files
from train.__main__ import main
from train.errors import BadSettingsError
from train.signing import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, make_keys, signer


def test_a_key_pair_is_made_by_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The private key is its owner's alone; the output names both files."""
    folder = tmp_path / "new" / "keys"
    assert main(["signing-key", "--to", str(folder)]) == 0
    private, public = folder / PRIVATE_KEY_FILE, folder / PUBLIC_KEY_FILE
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    said = capsys.readouterr().out
    assert str(private) in said
    assert str(public) in said
    assert "PRIVATE" not in said
    signature = signing.private_key(private.read_bytes()).sign(b"x")
    assert signing.is_signed(b"x", signature, signing.public_keys(public.read_bytes()))


@pytest.mark.parametrize("name", [PRIVATE_KEY_FILE, PUBLIC_KEY_FILE])
def test_keys_that_are_there_are_not_overwritten(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even one of them, or a link that leads nowhere."""
    (tmp_path / name).symlink_to("nowhere")
    assert main(["signing-key", "--to", str(tmp_path)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_directory_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As any other argument that makes no sense."""
    (tmp_path / "file").touch()
    assert main(["signing-key", "--to", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_directory_is_signed_as_it_is(tmp_path: Path) -> None:
    """The manifest names its files, the model and the run; signing again changes no byte."""
    private, public = make_keys(tmp_path / "keys")
    model = tmp_path / "model"
    model.mkdir()
    (model / "MLmodel").write_text("x")
    who = signer({signing.KEY_FILE_VARIABLE: str(private)})
    assert who is not None
    who.sign(model, "m", "r")
    content = (model / names.MANIFEST_FILE).read_bytes()
    signature = (model / names.SIGNATURE_FILE).read_bytes()
    assert signing.is_signed(content, signature, signing.public_keys(public.read_bytes()))
    manifest.check(manifest.parse(content), "m", "r", list_files(model))
    who.sign(model, "m", "r")
    assert (model / names.MANIFEST_FILE).read_bytes() == content
    assert (model / names.SIGNATURE_FILE).read_bytes() == signature


def test_without_a_key_file_nobody_signs() -> None:
    """An empty variable is none."""
    assert signer({}) is None
    assert signer({signing.KEY_FILE_VARIABLE: ""}) is None


@pytest.mark.parametrize("content", [None, b"", b"no key"])
def test_a_key_file_that_cannot_be_used_ends_the_job_before_it_begins(
    tmp_path: Path, content: bytes | None
) -> None:
    """The message names variable, file and way out."""
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadSettingsError, match=rf"{signing.KEY_FILE_VARIABLE}={file}.*signing-key"):
        signer({signing.KEY_FILE_VARIABLE: str(file)})


def test_signing_a_version_needs_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow isn't asked before."""
    monkeypatch.delenv(signing.KEY_FILE_VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = tmp_path / "train_config.yaml"
    config.write_text("")
    assert main(["sign", "--version", "1", "--config", str(config)]) == 2
    assert signing.KEY_FILE_VARIABLE in capsys.readouterr().err
