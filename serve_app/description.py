"""What `/model` and `/admin/rollout` say: pure."""

from dataclasses import asdict
from typing import Any

from serve_app.openapi import schemas
from serve_app.routing import CHAMPION, Published


def describe(published: Published) -> dict[str, Any]:
    """Return what is served, and what becomes of it, as JSON."""
    table = published.table
    champion = table.champion
    weights = {CHAMPION: 1.0 - table.weight}
    return {
        "name": champion.version.name,
        "versions": [
            {
                "version": model.version.version,
                "role": role,
                "weight": weights.get(role, table.weight),
                "run_id": model.version.run_id,
                "digest": model.version.digest,
            }
            for model, role in table.routed
        ],
        "run_id": champion.version.run_id,
        "digest": champion.version.digest,
        "metrics": dict(champion.version.metrics),
        "signature": [asdict(column) for column in champion.signature.columns],
        "classes": champion.classes,
        "example": schemas.example(champion.signature, champion.example),
        **rollout_of(published),
    }


def rollout_of(published: Published) -> dict[str, Any]:
    """Return how the rollout stands, if there is one, and what becomes of versions, as JSON."""
    table = published.table
    return {
        "champion": table.champion.version.version,
        "challenger": table.challenger.version.version if table.challenger is not None else None,
        "previous": table.previous.version.version if table.previous is not None else None,
        "weight": table.weight,
        "shadow": table.shadow,
        "epoch": table.epoch,
        "is_from_cache": table.is_from_cache,
        **published.status,
    }
