"""The table that a start begins with: the registry's champion, or what this node served last."""

import logging
import time

from contract.tracking import MlflowUnreachableError
from serve_app.control import memory
from serve_app.model_errors import ModelError, NoSuchModelError, UnservableModelError, printable
from serve_app.models import registry
from serve_app.models.served import describe
from serve_app.routing import Table
from serve_app.settings import Settings

logger = logging.getLogger("ray.serve")


def seed(settings: Settings) -> Table:
    """Return the table to begin with.

    If MLflow doesn't answer, names no champion, or one that can't be served, for whatever reason,
    or kept on this node's disk, that is what this node served last. Raises MlflowUnreachableError,
    ModelError, OSError if it has served nothing.
    """
    epoch = int(time.time() * 1000)
    remembered = memory.recall(settings)
    unrecorded = remembered.unrecorded if remembered is not None else ()
    try:
        version = registry.resolve(settings)
        model = describe(version, registry.load(version, settings))
        return Table(epoch, model, unrecorded=unrecorded)
    except (MlflowUnreachableError, UnservableModelError, OSError) as error:
        if remembered is None:
            raise
        reason = str(error)
    except NoSuchModelError as error:
        # A directory that is empty has nothing beside it that could still be served.
        if remembered is None or settings.model_served != "mlflow":
            raise
        reason = str(error)
    except ModelError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if remembered is None:
            raise UnservableModelError(reason) from error
        logger.exception("the champion could not be prepared")
    last = remembered.champion
    reason = printable(reason)
    logger.warning("%s; version %s, which was served last, is served", reason, last.version)
    model = describe(last, registry.load(last, settings))
    return Table(epoch, model, unrecorded=unrecorded, is_from_cache=True)
