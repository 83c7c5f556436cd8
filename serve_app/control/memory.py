"""What this node remembers of the last table, for when neither MLflow nor another replica can say.

One small JSON file a model, beside the copies of its versions, whole or not there at all.
"""

import hashlib
import json
import logging
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from contract.tracking import MlflowUnreachableError
from serve_app.model_errors import ModelError, printable
from serve_app.models import registry
from serve_app.models.private import own
from serve_app.models.served import ServedVersion, describe
from serve_app.routing import Table, Write
from serve_app.settings import Settings

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Remembered:
    """The part of a table that can't be found out anew."""

    epoch: int
    champion: ServedVersion
    unrecorded: tuple[Write, ...]


def remember(settings: Settings, table: Table) -> None:
    """Keep a table. Raises OSError, ModelError."""
    file = _file(settings)
    file.parent.mkdir(exist_ok=True)
    content = {
        "epoch": table.epoch,
        "champion": asdict(table.champion.version),
        "unrecorded": [asdict(write) for write in table.unrecorded],
    }
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        scratch = Path(folder) / "table"
        scratch.write_text(json.dumps(content))
        scratch.replace(file)  # whole or not at all


def recall(settings: Settings) -> Remembered | None:
    """Return what was kept last; None if there's nothing, or nothing that can be used."""
    try:
        content: dict[str, Any] = json.loads(_file(settings).read_text())
        return Remembered(
            int(content["epoch"]),
            ServedVersion(**content["champion"]),
            tuple(Write(**write) for write in content["unrecorded"]),
        )
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError):
        return None
    except ModelError as error:
        logger.warning("this node remembers nothing: %s", printable(str(error)))
        return None


def fallback(seed: Table, settings: Settings) -> Table:
    """Return the table of what this node has served last, or `seed` if that is as new."""
    return restored(seed, recall(settings), settings)


def restored(seed: Table, remembered: Remembered | None, settings: Settings) -> Table:
    """Return the table of what was remembered, or `seed` if that is as new."""
    if remembered is None or remembered.epoch <= seed.epoch:
        return seed
    try:
        model = registry.load(remembered.champion, settings)
    except (ModelError, MlflowUnreachableError) as error:
        reason = printable(str(error))
        logger.warning("what this node served last can't be served: %s", reason)
        return seed
    return replace(
        seed,
        epoch=remembered.epoch,
        champion=describe(remembered.champion, model),
        unrecorded=remembered.unrecorded,
    )


def _file(settings: Settings) -> Path:
    own(settings.cache_dir)
    # Versions of one name in two registries have nothing to do with each other.
    is_local = settings.model_served == "local"
    place = settings.model_dir if is_local else settings.mlflow_tracking_uri
    named = json.dumps([settings.model_served, str(place), settings.model_name])
    name = hashlib.sha256(named.encode()).hexdigest()[:32]
    return settings.cache_dir / "tables" / f"{name}.json"
