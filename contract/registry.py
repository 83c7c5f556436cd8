"""The registered model: its versions, found and created without duplicates, and its aliases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from contract import names
from contract.standing import Registered

NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


class NoSuchVersionError(Exception):
    """A version was named that the registered model doesn't have."""


@dataclass(frozen=True)
class Candidate:
    """A logged model that passed the gate, and what its version will say of it.

    A version that an earlier job registered and did not live to promote gets the new `judgement`;
    its `tags` stay, since they tell of the very model that it holds.
    """

    run_id: str
    model_id: str
    fingerprint: str
    tags: Mapping[str, str]
    judgement: Mapping[str, str]
    description: str = ""


@dataclass(frozen=True)
class Registry:
    """One registered model in MLflow."""

    client: MlflowClient
    model_name: str

    def registered(self) -> Registered:
        """Return aliases and tags as they are now; none if the model isn't registered yet."""
        try:
            found = self.client.get_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code in NOT_FOUND:
                return Registered({}, {})
            raise
        aliases = {alias: str(version) for alias, version in found.aliases.items()}
        return Registered(aliases, dict(found.tags))

    def aliases(self) -> dict[str, str]:
        """Return version by alias; empty if the model isn't registered yet."""
        return dict(self.registered().aliases)

    def champion(self) -> str | None:
        """Return the version that the alias `champion` names."""
        return self.registered().champion

    def get(self, version: str) -> ModelVersion:
        """Return a version. Raises NoSuchVersionError if there is none of that number."""
        try:
            return self.client.get_model_version(self.model_name, version)
        except MlflowException as error:
            if error.error_code not in NOT_FOUND:
                raise
            raise NoSuchVersionError(
                f"model {self.model_name!r} has no version {version}; see MLflow's page"
            ) from error

    def find(self, fingerprint: str) -> ModelVersion | None:
        """Return the oldest version of that fingerprint."""
        found = self._with_fingerprint(fingerprint)
        return found[0] if found else None

    def register(self, candidate: Candidate) -> ModelVersion:
        """Return the version of the candidate's fingerprint, created if there is none.

        Call with the promotion lock held. MLflow's client sends a request again when its answer
        is lost, so one creation may leave two versions: the later ones are deleted.
        """
        if existing := self.find(candidate.fingerprint):
            for key, value in candidate.judgement.items():
                self.client.set_model_version_tag(self.model_name, existing.version, key, value)
            return existing
        self._create(candidate)
        version, *duplicates = self._with_fingerprint(candidate.fingerprint)
        for duplicate in duplicates:
            self.client.delete_model_version(self.model_name, duplicate.version)
        return version

    def _create(self, candidate: Candidate) -> None:
        try:
            self.client.create_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        self.client.create_model_version(
            self.model_name,
            source=f"models:/{candidate.model_id}",
            run_id=candidate.run_id,
            model_id=candidate.model_id,
            # In the same request, so that no version is ever without its fingerprint.
            tags={
                **candidate.tags,
                **candidate.judgement,
                names.TAG_FINGERPRINT: candidate.fingerprint,
            },
            description=candidate.description,
            await_creation_for=0,
        )

    def _with_fingerprint(self, fingerprint: str) -> list[ModelVersion]:
        found = self.client.search_model_versions(
            f"name = '{self.model_name}' and tag.`{names.TAG_FINGERPRINT}` = '{fingerprint}'"
        )
        return sorted(found, key=lambda version: int(version.version))
