"""The first system and the image are made while tests run that need neither."""

import pytest

from tests.conftest import is_needed


@pytest.fixture(scope="session", autouse=True)
def _what_takes_long_goes_ahead(request: pytest.FixtureRequest) -> None:
    """Begin with the first end-to-end test."""
    for awaited, begun in (("first", "first_run"), ("image", "image_build")):
        if is_needed(request, awaited):
            request.getfixturevalue(begun)
