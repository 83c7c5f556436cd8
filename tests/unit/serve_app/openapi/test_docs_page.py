"""`/docs`: a page that is whole by itself."""

import re
from urllib.parse import urljoin

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from serve_app.errors import NoSuchRouteError
from serve_app.openapi.docs_page import FILES, DocsPage


def client(prefix: str = "") -> TestClient:
    """A client of the page, behind a route prefix."""
    page = DocsPage("diabetes <7>")
    routes = [Route("/docs", page.page), Route("/docs/{name}", page.file)]
    app = Starlette(routes=[Mount(prefix, routes=routes)] if prefix else routes)
    return TestClient(app)


def links(page: str) -> list[str]:
    """What a page names in its attributes."""
    return re.findall(r'(?:src|href)="([^"]+)"', page)


@pytest.mark.parametrize("prefix", ["", "/models/diabetes"])
def test_all_that_the_page_names_is_beside_it(prefix: str) -> None:
    """Relative addresses, which resolve under any route prefix, and answer."""
    asked = client(prefix)
    found = links(asked.get(f"{prefix}/docs").text)
    files = [link for link in found if link.startswith("docs/")]
    assert sorted(found) == sorted([*files, "data:,", "openapi.json"])
    assert len(files) == len(FILES)
    for link in files:
        answer = asked.get(urljoin(f"{prefix}/docs", link))
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    """By its policy; and its title is text."""
    answer = client().get("/docs")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["cache-control"] == "no-cache"
    assert "<title>diabetes &lt;7&gt;</title>" in answer.text


def test_a_file_asked_for_without_its_version_is_asked_for_again() -> None:
    """Only addresses that change with the content are kept for good."""
    assert client().get("/docs/page.js").headers["cache-control"] == "no-cache"
    assert client().get("/docs/page.js?v=old").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip, br", "gzip"), ("br;q=1.0, gzip;q=0.8", "gzip"), ("gzip;q=0", None), ("", None)],
)
def test_files_are_compressed_for_those_who_take_that(accepted: str, encoding: str | None) -> None:
    """The same content either way."""
    answer = client().get("/docs/swagger-ui-bundle.js", headers={"accept-encoding": accepted})
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "SwaggerUIBundle" in answer.text


@pytest.mark.parametrize("name", ["index.html", "swagger-ui.js", "VERSION"])
def test_no_other_file_of_the_package_is_served(name: str) -> None:
    """A fixed list, and nothing by path."""
    with pytest.raises(NoSuchRouteError):
        client().get(f"/docs/{name}")
