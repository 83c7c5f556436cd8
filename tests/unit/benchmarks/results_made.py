"""Results as a run would leave them, without a run."""

from __future__ import annotations

from typing import Any

from benchmarks.results import Facts, Measurement, Results

TITLES = {
    "endeavour": "Endeavour",
    "starlette": "Starlette, bare",
    "flask": "Flask",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "mlflow": "mlflow models serve",
    "mosec": "mosec",
    "mlserver": "MLServer",
    "ray_docs": "Ray Serve, documented layout",
}


def empty(titles: dict[str, str] | None = None) -> Results:
    """A run that has measured nothing yet."""
    facts = Facts(
        date="2026-01-01 00:00 UTC",
        command="python -m benchmarks",
        commit="0123456789ab",
        rounds=3,
        seconds=4,
        is_whole=True,
        machine={"processor": "one", "cores": "2"},
        versions={"Python": "3.11.7"},
        titles=TITLES if titles is None else titles,
    )
    return Results(facts)


def measurement(server: str, case: str, **values: Any) -> Measurement:
    """A load in which nothing stands out but `values`."""
    plain: dict[str, Any] = {
        "round": 1,
        "per_s": 1000.0,
        "requests": 4000,
        "errors": 0,
        "p50_ms": 1.0,
        "p90_ms": 1.5,
        "p99_ms": 2.0,
        "max_ms": 5.0,
        "rows": 1,
        "cpu_s": 4.0,
        "memory_bytes": 100 * 2**20,
        "elsewhere": 0.01,
    }
    return Measurement(server=server, case=case, **{**plain, **values})
