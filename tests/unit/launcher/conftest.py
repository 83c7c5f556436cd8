"""Free ports, as the environment names them."""

from collections.abc import Callable

import pytest

from tests import running


@pytest.fixture
def free_ports(free_port: Callable[[], int]) -> dict[str, str]:
    """PORT, MLFLOW_PORT and RAY_DASHBOARD_PORT, all free and different."""
    return running.ports(free_port)
