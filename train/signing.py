"""The files of a model, signed before they leave the machine that trained it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contract import manifest, model_directory, names, signing
from train.errors import BadSettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PRIVATE_KEY_FILE: Final = "signing_key.pem"
PUBLIC_KEY_FILE: Final = "public_key.pem"
_OWNER_ONLY: Final = 0o600
_FOR_ALL: Final = 0o644
_LOGGED: Final = re.compile(r"models:/(m-[^/]+)")


@dataclass(frozen=True)
class Signer:
    """Whoever holds the private key."""

    key: Ed25519PrivateKey

    def sign(self, directory: Path, model_name: str, run_id: str) -> None:
        """Put a manifest of a model directory's files, and its signature, beside them.

        Raises contract.model_directory.OddFileError.
        """
        files = model_directory.list_files(directory)
        content = manifest.to_bytes(
            manifest.Manifest(model_name=model_name, run_id=run_id, files=files)
        )
        (directory / names.MANIFEST_FILE).write_bytes(content)
        (directory / names.SIGNATURE_FILE).write_bytes(self.key.sign(content))


def signer(environ: Mapping[str, str]) -> Signer | None:
    """Return who signs, by the key file that the environment names; None if it names none.

    Raises BadSettingsError.
    """
    if not (file := environ.get(signing.KEY_FILE_VARIABLE)):
        return None
    try:
        return Signer(signing.private_key(Path(file).read_bytes()))
    except (OSError, signing.KeyFileError) as error:
        raise BadSettingsError(
            f"{signing.KEY_FILE_VARIABLE}={file}: {error}: make a key with "
            "`python -m train signing-key`, or unset the variable to train without a signature"
        ) from error


@dataclass(frozen=True)
class SignedSklearn:
    """MLflow's scikit-learn flavor, which signs what it has written, before it is uploaded."""

    signer: Signer
    model_name: str
    __name__ = "mlflow.sklearn"

    def save_model(self, path: str, mlflow_model: Any, **kwargs: Any) -> None:
        """Write a model directory for MLflow's `Model.log`."""
        import mlflow.sklearn  # noqa: PLC0415  # takes seconds: not for `signing-key`

        mlflow.sklearn.save_model(path=path, mlflow_model=mlflow_model, **kwargs)
        self.signer.sign(Path(path), self.model_name, mlflow_model.run_id)


def sign_version(client: MlflowClient, version: ModelVersion, by: Signer) -> None:
    """Sign what MLflow holds of a version now. Raises BadSettingsError, MlflowException."""
    import mlflow.artifacts  # noqa: PLC0415  # as above

    logged = _LOGGED.fullmatch(str(version.source))
    if not version.run_id or logged is None:
        raise BadSettingsError(
            f"version {version.version} of {version.name!r} can't be signed: it is no model that "
            f"`python -m train` has logged (its source is {version.source!r})"
        )
    with tempfile.TemporaryDirectory() as folder:
        fetched = Path(folder) / "fetched"
        fetched.mkdir()
        directory = Path(
            mlflow.artifacts.download_artifacts(
                f"models:/{version.name}/{version.version}", dst_path=str(fetched)
            )
        )
        try:
            by.sign(directory, version.name, version.run_id)
        except model_directory.OddFileError as error:
            raise BadSettingsError(str(error)) from error
        # The signature last: it is what makes the manifest count.
        for name in (names.MANIFEST_FILE, names.SIGNATURE_FILE):
            client.log_model_artifact(logged[1], str(directory / name))


def make_keys(directory: Path) -> tuple[Path, Path]:
    """Make a key pair in two files, the private one for its owner only; return their paths.

    Raises BadSettingsError if one of them is there already.
    """
    private, public = directory / PRIVATE_KEY_FILE, directory / PUBLIC_KEY_FILE
    if taken := [str(file) for file in (private, public) if os.path.lexists(file)]:
        raise BadSettingsError(
            f"{taken[0]} exists and is not overwritten: name another directory by --to"
        )
    private_pem, public_pem = signing.generate()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_new(private, private_pem, _OWNER_ONLY)
        _write_new(public, public_pem, _FOR_ALL)
    except OSError as error:
        raise BadSettingsError(f"{directory}: the keys can't be written: {error}") from error
    return private, public


def _write_new(file: Path, content: bytes, mode: int) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as output:
        output.write(content)
