"""`build`: the one place where settings, model and deployments are put together."""

import logging
import os
from typing import Any

from ray import serve
from ray.serve import Application

from contract.strict import SettingsError
from contract.tracking import MlflowUnreachableError
from serve_app import settings
from serve_app.access.key_file import NO_KEYS, KeySource
from serve_app.control.seed import seed
from serve_app.controller import RolloutController
from serve_app.ingress import Ingress
from serve_app.model_errors import ModelError
from serve_app.worker import ModelWorker

logger = logging.getLogger("ray.serve")

STOP_MARGIN_S = 2.0
"""How much longer than a request a replica that stops may take, before Serve kills it."""

SWITCHES = ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_ENABLE_HA_PROXY")

# What holds without a config file; serve_config.yaml has the replicas' bounds.
_CPUS = {"num_cpus": 0.2}
_INGRESS = serve.deployment(name="Ingress", max_ongoing_requests=2048, ray_actor_options=_CPUS)(
    Ingress
)
_MODEL_WORKER = serve.deployment(
    name="ModelWorker",
    max_ongoing_requests=64,
    ray_actor_options=_CPUS,
    # How long one that stops waits before it closes its lines: the ingresses hear of it at once,
    # and `__del__` answers what is under way. Serve's own 2 s are for calls by handle.
    graceful_shutdown_wait_loop_s=0.5,
)(ModelWorker)
# Everybody hangs on it: the default of 5 ongoing requests would let five replicas in.
_CONTROLLER = serve.deployment(
    name="RolloutController",
    num_replicas=1,
    max_ongoing_requests=4096,
    ray_actor_options={"num_cpus": 0.02},
    health_check_period_s=2,
    health_check_timeout_s=10,
    # What hangs on it asks again; without these, it would be waited for at each stop.
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=0.5,
)(RolloutController)


class CannotStartError(Exception):
    """The application can't be built; the message is one line and says the way out."""


def build(args: dict[str, Any]) -> Application:
    """Return the application that `args` and the environment describe.

    Raises CannotStartError within 30 s if the settings are wrong or no model can be had.
    """
    if missing := [name for name in SWITCHES if os.environ.get(name) != "1"]:
        logger.warning(
            "%s not set: requests take Serve's slower path. `make run` sets what serve.env lists; "
            "for your own cluster, give serve.env to `ray start` on every node.",
            " and ".join(missing),
        )
    try:
        chosen = settings.resolve(args, os.environ)
        asks_for_keys = _check_keys(chosen)
        table = seed(chosen)
    except (SettingsError, MlflowUnreachableError, ModelError) as error:
        raise CannotStartError(str(error)) from None
    # Replicas that stop end what they have, for which nobody waits after the deadline; an ingress
    # reads bodies before that. Who takes longer to take a large answer is cut off.
    worker_stop_s = chosen.limits.deadline_s + STOP_MARGIN_S
    ingress_stop_s = chosen.limits.body_timeout_s + worker_stop_s
    controller = _CONTROLLER.bind(table, chosen)
    worker = _MODEL_WORKER.options(graceful_shutdown_timeout_s=worker_stop_s).bind(
        controller, table, chosen
    )
    ingress = _INGRESS.options(graceful_shutdown_timeout_s=ingress_stop_s)
    application: Application = ingress.bind(worker, controller, table, chosen, asks_for_keys)
    return application


def _check_keys(chosen: settings.Settings) -> bool:
    """Return whether keys are asked for; say loudly that they aren't. Raises SettingsError."""
    if KeySource(chosen.api_keys_file, os.environ).is_on:
        return True
    if chosen.env == "production":
        raise SettingsError(NO_KEYS)
    logger.warning("ANYBODY MAY ASK: %s", NO_KEYS)
    return False
