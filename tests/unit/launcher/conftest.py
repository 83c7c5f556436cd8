"""Free ports, as the environment names them."""

from collections.abc import Callable

import pytest


@pytest.fixture
def free_ports(free_port: Callable[[], int]) -> dict[str, str]:
    """PORT, MLFLOW_PORT and RAY_DASHBOARD_PORT, all free and different."""
    numbers: set[int] = set()
    while len(numbers) < 3:
        numbers.add(free_port())
    names = ("PORT", "MLFLOW_PORT", "RAY_DASHBOARD_PORT")
    return dict(zip(names, map(str, numbers), strict=True))
