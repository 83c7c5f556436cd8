"""Whether a model's files are those that training signed, before anything of them is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract import manifest, names, signing
from serve_app.model_errors import ModelError, UnservableModelError
from serve_app.settings import Settings

MOST_MANIFEST_BYTES: Final = 2**20
"""Of some thousands of files."""

SIGNATURE_BYTES: Final = 64

Check = Callable[[Path, Mapping[str, str]], None]
"""(directory, its files as `model_files.files_of` lists them) -> nothing; raises ModelError."""


def anything_goes(directory: Path, files: Mapping[str, str]) -> None:
    """Take any files: no public key is set."""


def read(file: Path, most_bytes: int) -> bytes:
    """Return a file's content, of which nothing is known. Raises UnservableModelError if it is
    longer, OSError.
    """
    if (size := file.stat().st_size) > most_bytes:
        raise UnservableModelError(f"{file.name} has {size} bytes, more than {most_bytes}")
    return file.read_bytes()


def check_of_version(settings: Settings, name: str, version: str, run_id: str | None) -> Check:
    """Return what the files of a registered version must pass.

    Where public keys are set it raises UnservableModelError unless a manifest lies beside them
    that one of the keys verifies, and that is of these very files, of the model that the settings
    name, and of this run. Raises ModelError if the keys can't be read.
    """
    if settings.signing_public_keys is None:
        return anything_goes
    what = f"version {version} of {name!r}"
    way_out = (
        f"train it with {signing.KEY_FILE_VARIABLE}, or, if you know what it holds, sign it with "
        f"`python -m train sign --version {version}`"
    )
    if not run_id:
        raise UnservableModelError(
            f"{what} names no run that its manifest could be of: register what "
            "`python -m train` has logged"
        )
    return _Signed(settings.signing_public_keys, settings.model_name, run_id, what, way_out)


def check_of_directory(settings: Settings, directory: Path, run_id: str | None) -> Check:
    """Return what the files of a local directory must pass; without `run_id`, of whatever run."""
    if settings.signing_public_keys is None:
        return anything_goes
    way_out = "write it again with `make export`, of a signed version, or set MODEL_NAME"
    return _Signed(
        settings.signing_public_keys, settings.model_name, run_id, str(directory), way_out
    )


@dataclass(frozen=True)
class _Signed:
    keys_file: Path
    model_name: str
    run_id: str | None
    what: str
    way_out: str

    def __call__(self, directory: Path, files: Mapping[str, str]) -> None:
        try:
            keys = signing.public_keys(self.keys_file.read_bytes())
        except (OSError, signing.KeyFileError) as error:
            raise ModelError(
                f"{self.keys_file}: {error}: name a file of public keys by "
                f"{signing.PUBLIC_KEYS_VARIABLE}, as `python -m train signing-key` writes it"
            ) from error
        try:
            content = read(directory / names.MANIFEST_FILE, MOST_MANIFEST_BYTES)
            signature = read(directory / names.SIGNATURE_FILE, SIGNATURE_BYTES)
        except OSError as error:
            raise self._refusal("not signed, and public keys are set") from error
        except UnservableModelError as error:
            raise self._refusal(str(error)) from error
        if len(signature) != SIGNATURE_BYTES:
            raise self._refusal(
                f"{names.SIGNATURE_FILE} has {len(signature)} bytes, not {SIGNATURE_BYTES}"
            )
        if not signing.is_signed(content, signature, keys):
            raise self._refusal(
                f"its manifest is signed by none of the {len(keys)} keys in {self.keys_file}"
            )
        try:
            manifest.check(manifest.parse(content), self.model_name, self.run_id, files)
        except manifest.ManifestError as error:
            raise self._refusal(str(error)) from error

    def _refusal(self, reason: str) -> UnservableModelError:
        return UnservableModelError(f"{self.what}: {reason}: {self.way_out}")
