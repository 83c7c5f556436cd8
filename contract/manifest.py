"""A model's manifest: the digest of each of its files, and the model and run that they are for."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from contract import strict

KIND: Final = "endeavour-model-manifest/1"
"""Stands in every manifest: what else is signed by the same key can't pass for one."""

MOST_NAMED: Final = 3

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestError(Exception):
    """A manifest that isn't one, or isn't of these files, this model and this run."""


class Manifest(strict.Strict):
    """What training says of the files that it has logged."""

    kind: Literal["endeavour-model-manifest/1"] = KIND
    model_name: str = Field(min_length=1)
    run_id: str = Field(min_length=1)
    files: dict[str, Sha256]
    """SHA-256 of the content by the path inside the model's directory."""


def to_bytes(manifest: Manifest) -> bytes:
    """Return a manifest as JSON; the same facts are the same bytes."""
    return (json.dumps(manifest.model_dump(), indent=2, sort_keys=True) + "\n").encode()


def parse(content: bytes) -> Manifest:
    """Return the manifest in JSON. Raises ManifestError."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        reason = strict.explain(error).splitlines()[0]
        raise ManifestError(f"its manifest can't be read: {reason}") from error


def digest_of(files: Mapping[str, str]) -> str:
    """Return one SHA-256 for all files, by the digest of each."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def check(
    manifest: Manifest, model_name: str, run_id: str | None, files: Mapping[str, str]
) -> None:
    """Raise ManifestError unless a manifest is of these files, this model and this run.

    Without `run_id` any run of the model will do.
    """
    if manifest.model_name != model_name:
        raise ManifestError(f"it was signed as {manifest.model_name!r}, not as {model_name!r}")
    if run_id is not None and manifest.run_id != run_id:
        raise ManifestError(f"what was signed is of run {manifest.run_id}, not of run {run_id}")
    if differences := list(_differences(manifest.files, files)):
        more = len(differences) - MOST_NAMED
        said = ", ".join(differences[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise ManifestError(f"its files are not those that were signed: {said}")


def _differences(signed: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(signed.keys() | found.keys()):
        if name not in found:
            yield f"{name!r} is missing"
        elif name not in signed:
            yield f"{name!r} was added"
        elif found[name] != signed[name]:
            yield f"{name!r} was changed"
