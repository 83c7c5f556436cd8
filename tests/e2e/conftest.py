"""What the end-to-end tests share: the first `make run`, and the image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests import running
from tests.conftest import is_needed
from tests.e2e import container
from tests.e2e.container import Image
from tests.running import Running


@pytest.fixture(scope="package", autouse=True)
def _first_run_ends(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the machine to the tests that come after these."""
    first_run = request.getfixturevalue("first_run") if is_needed(request, "first") else None
    yield
    if first_run is not None:
        running.stop(first_run)


@pytest.fixture(scope="package")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """What the Dockerfile makes."""
    return container.build_image(tmp_path_factory.mktemp("image"))


@dataclass(frozen=True)
class ServedImage:
    """What the image runs, and the files that it had before."""

    service: Running
    files: set[str]


@pytest.fixture(scope="package")
def served_image(image: Image, free_port: Callable[[], int]) -> Iterator[ServedImage]:
    """The image, serving its own model. The last test of test_image.py ends it."""
    files = image.files()
    environ = {**image.serve.environ, **running.ports(free_port)}
    with running.system(image.serve.app, environ, image.command) as service:
        yield ServedImage(service, files)
