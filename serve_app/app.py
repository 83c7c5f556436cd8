"""`build`: the one place where settings, model and deployments are put together."""

import logging
import os
from typing import Any

from ray import serve
from ray.serve import Application

from contract.strict import SettingsError
from contract.tracking import MlflowUnreachableError
from serve_app import registry, settings
from serve_app.ingress import Ingress
from serve_app.model_errors import ModelError
from serve_app.served import ServedModel
from serve_app.worker import ModelWorker

logger = logging.getLogger("ray.serve")

SWITCHES = ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_ENABLE_HA_PROXY")

# What holds without a config file; serve_config.yaml has the replicas' bounds.
_CPUS = {"num_cpus": 0.2}
_INGRESS = serve.deployment(name="Ingress", max_ongoing_requests=2048, ray_actor_options=_CPUS)(
    Ingress
)
_MODEL_WORKER = serve.deployment(
    name="ModelWorker", max_ongoing_requests=64, ray_actor_options=_CPUS
)(ModelWorker)


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
        version = registry.resolve(chosen)
        model = registry.load(version, chosen)
    except (SettingsError, MlflowUnreachableError, ModelError) as error:
        raise CannotStartError(str(error)) from None
    worker = _MODEL_WORKER.bind(version, chosen)
    served = ServedModel(
        version,
        model.signature,
        model.example,
        model.classes,
        model.labels,
        model.predict(model.example).values.dtype.kind,
    )
    application: Application = _INGRESS.bind(worker, served, chosen)
    return application
