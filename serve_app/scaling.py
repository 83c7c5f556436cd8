"""How many replicas there should be, from what they record about themselves.

Serve's own policy follows ongoing requests. Of those it sees none at an ingress that answers
without it, and at a worker at most a few calls an ingress, which would follow the number of
ingresses and not the load.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from ray.serve.config import AutoscalingContext

BUSY_SHARE: Final = "busy_share"
"""Recorded statistic: share of the time since the last record spent at work, 0 to 1: in the model
for a worker, on a processor for an ingress."""

QUEUED_ROWS: Final = "queued_rows"
"""Recorded statistic: rows that waited for the model, at most, since the last record."""

TARGET_BUSY_SHARE: Final = 0.6
TARGET_INGRESS_SHARE: Final = 0.85
TARGET_QUEUED_ROWS: Final = 4096.0


def desired_workers(workers: int, busy_shares: list[float], queued_rows: list[float]) -> int:
    """Return the number of workers that brings both statistics to their targets.

    The busy share says how much work there is; queued rows alone never ask for more than one
    worker beyond those that are there, as a burst may be over before a new one has started.
    """
    if not busy_shares:
        return workers
    by_time = math.ceil(sum(busy_shares) / TARGET_BUSY_SHARE)
    is_backed_up = bool(queued_rows) and sum(queued_rows) / len(queued_rows) > TARGET_QUEUED_ROWS
    return max(1, by_time, workers + 1 if is_backed_up else 0)


def worker_policy(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy for ModelWorker; Serve adds delays, factors and bounds."""
    busy, queued = _recorded(context, BUSY_SHARE), _recorded(context, QUEUED_ROWS)
    return desired_workers(context.current_num_replicas, busy, queued), {}


def desired_ingresses(ingresses: int, busy_shares: list[float]) -> int:
    """Return the number of ingresses that brings their share of a processor to its target.

    One event loop can't use more than one processor, however many requests wait for it.
    """
    if not busy_shares:
        return ingresses
    return max(1, math.ceil(sum(busy_shares) / TARGET_INGRESS_SHARE))


def ingress_policy(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy for Ingress; Serve adds delays, factors and bounds."""
    return desired_ingresses(context.current_num_replicas, _recorded(context, BUSY_SHARE)), {}


def _recorded(context: AutoscalingContext, name: str) -> list[float]:
    metrics: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
    running = set(context.running_replicas)
    return [value for replica, value in metrics.get(name, {}).items() if replica in running]
