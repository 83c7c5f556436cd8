"""Settings of the application: `args` in `serve_config.yaml`, overridden by the environment."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from contract import names, signing, strict, tracking
from serve_app.rollouts.policy import Policy


class Limits(strict.Strict):
    """Bounds on what one ingress replica takes in, and for how long it waits."""

    max_body_bytes: PositiveInt = Field(
        default=16 * 2**20, description="Largest request body, in bytes; larger ones get 413"
    )
    max_batch_records: PositiveInt = Field(
        default=100_000, description="Most records in one /batch request; more get 413"
    )
    max_requests: PositiveInt = Field(
        default=256,
        description="Requests that one ingress has under way on /stream, and as many on all other "
        "routes that predict; more get 503 at once",
    )
    max_bytes_under_way: PositiveInt = Field(
        default=256 * 2**20,
        description="Bytes of the bodies of each of these two, and of their answers of over "
        "64 KiB; more get 503",
    )
    max_queued_rows: PositiveInt = Field(
        default=200_000, description="Rows that may wait in one ingress; more get 503"
    )
    body_timeout_s: PositiveFloat = Field(
        default=10.0, description="Longest a request's body may take to arrive; then 408"
    )
    body_stall_s: PositiveFloat = Field(
        default=4.0,
        description="Longest pause in a body; then 408. Keep it below "
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S, or HAProxy answers",
    )
    answer_timeout_s: PositiveFloat = Field(
        default=60.0,
        description="Longest a client may take to take an answer of over 64 KiB; then it is cut "
        "off",
    )
    deadline_s: PositiveFloat = Field(
        default=30.0, description="Longest a request waits for its prediction; then 504"
    )


class Dispatch(strict.Strict):
    """How waiting requests become calls to the workers."""

    max_rows_per_call: PositiveInt = Field(
        default=4096, description="Rows in one call; larger batches are spread over the workers"
    )
    max_calls_under_way: PositiveInt | None = Field(
        default=None,
        description="Most calls that one ingress has under way at once; to a quick model it has "
        "one. By default one for each worker, and at least 2",
    )
    lines: bool = Field(
        default=True,
        description="Rows go to the workers over connections of our own, which aren't encrypted; "
        "false: by Serve's slower calls, as with RAY_USE_TLS=1",
    )


class Settings(strict.Strict):
    """All settings of the application."""

    model_name: str = Field(default=names.MODEL_NAME, min_length=1)
    model_served: Literal["mlflow", "local"] = Field(
        default="mlflow",
        description="mlflow: the registry's champion; local: a directory from `make export`",
    )
    model_dir: Path = Field(
        default=Path("var/model"), description="Model directory that model_served: local reads"
    )
    mlflow_tracking_uri: str | None = Field(
        default=None, repr=False, description="Address of MLflow"
    )
    cache_dir: Path = Field(
        default=Path(tempfile.gettempdir()) / f"endeavour-models-{os.getuid()}",
        description="Where each node keeps its copies of model versions",
    )
    extra_trusted_types: tuple[str, ...] = Field(
        default=(), description="Types of your own that a model file may hold; they run at load"
    )
    env: Literal["development", "production"] = Field(
        default="development", description="production: without API keys nothing starts"
    )
    api_keys_file: Annotated[Path, AfterValidator(Path.absolute)] | None = Field(
        default=None,
        description="File with API keys, as `python -m serve_app keys` writes it, on each node",
    )
    signing_public_keys: Annotated[Path, AfterValidator(Path.absolute)] | None = Field(
        default=None,
        description="File with public keys in PEM, on each node; then only versions whose files "
        "one of them vouches for are served",
    )
    alias_poll_s: PositiveFloat = Field(
        default=2.0, description="How often MLflow is asked which version is champion, in seconds"
    )
    load_timeout_s: PositiveFloat = Field(
        default=60.0,
        description="Longest that a new version may take to be loaded and tried, and then to be "
        "loaded by every worker; in seconds. One that takes longer is refused",
    )
    rollout: Policy = Policy()
    limits: Limits = Limits()
    dispatch: Dispatch = Dispatch()


_ENVIRONMENT = {
    "MODEL_NAME": "model_name",
    "MODEL_SERVED": "model_served",
    "MODEL_DIR": "model_dir",
    "MODEL_CACHE_DIR": "cache_dir",
    "ENDEAVOUR_ENV": "env",
    "ENDEAVOUR_API_KEYS_FILE": "api_keys_file",
    signing.PUBLIC_KEYS_VARIABLE: "signing_public_keys",
}


def resolve(args: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings: the environment first, then `args`, then the defaults.

    Raises contract.strict.SettingsError with one line for each fault.
    """
    values = dict(args)
    values.update({key: environ[name] for name, key in _ENVIRONMENT.items() if environ.get(name)})
    if uri := tracking.tracking_uri(environ):
        values["mlflow_tracking_uri"] = uri
    return strict.parse(Settings, values, "serving settings")


def args_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the builder's `args` from the content of a Serve config file."""
    applications = config.get("applications") or [{}]
    if not isinstance(applications, list) or not isinstance(applications[0], dict):
        raise strict.SettingsError("applications: must be a list of Serve applications")
    return dict(applications[0].get("args") or {})
