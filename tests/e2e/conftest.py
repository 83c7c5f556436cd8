"""The image is built while other tests run."""

import pytest

from tests.conftest import is_needed


@pytest.fixture(scope="session", autouse=True)
def _image_build_goes_ahead(request: pytest.FixtureRequest) -> None:
    """Begin with the first end-to-end test."""
    if is_needed(request, "image"):
        request.getfixturevalue("image_build")
