"""What the end-to-end tests share is gone after them."""

from collections.abc import Iterator

import pytest

from tests import running
from tests.conftest import is_needed


@pytest.fixture(scope="package", autouse=True)
def _first_run_ends(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the machine to the tests that come after these."""
    yield
    if is_needed(request, "first"):
        running.stop(request.getfixturevalue("first_run"))
