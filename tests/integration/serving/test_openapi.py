"""`/openapi.json` and `/docs` of a real system: held to their own words, and used in a browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests import customers, running
from tests.integration.serving.conftest import Serve
from tests.running import Running

PAGE_TIMEOUT_S = 30.0
HEADLESS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1600",
)
WITHIN_THE_BROWSER = ("chrome", "data")
HOOKS = "tests.integration.serving.openapi_checks"
OWN_CHECKS = "negative_data_rejection,positive_data_acceptance"
"""Those that HOOKS has in its own form."""


@pytest.fixture(scope="module")
def service(serve: Serve, customers_directory: Path) -> Running:
    """A classifier of records with a column of each kind."""
    return serve(customers_directory)


def check_its_own_word(
    url: str, folder: Path, phases: str, examples: int, timeout_s: float
) -> None:
    """Fail with what schemathesis finds between a service and its own document."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{url}/openapi.json",
        f"--url={url}",
        "--checks=all",
        f"--exclude-checks={OWN_CHECKS}",
        f"--phases={phases}",
        f"--max-examples={examples}",
        "--continue-on-failure",
        "--generation-deterministic",
        "--request-timeout=20",
        "--no-color",
    ]
    environ = {**os.environ, "PYTHONPATH": str(running.ROOT), "SCHEMATHESIS_HOOKS": HOOKS}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)


def test_the_service_keeps_its_own_word(service: Running, tmp_path: Path) -> None:
    """What fits the schemas is answered as they say, what doesn't is refused, and nothing fails."""
    check_its_own_word(service.url, tmp_path, "examples,fuzzing", examples=10, timeout_s=200)


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_the_service_keeps_its_own_word_for_long(service: Running, tmp_path: Path) -> None:
    """The same, with many more requests."""
    phases = "examples,coverage,fuzzing"
    check_its_own_word(service.url, tmp_path, phases, examples=300, timeout_s=1100)


def tool(name: str) -> str:
    """The path of a program that `make system-packages` installs."""
    path = shutil.which(name)
    assert path is not None, f"{name} is missing: run make system-packages"
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Headless Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = tool("chromium")
    for argument in (*HEADLESS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(tool("chromedriver")))
    yield driver
    driver.quit()


def log(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What a log has gained since it was asked for last."""
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def requested(browser: webdriver.Chrome) -> list[str]:
    """The addresses of all that pages have asked for since this was asked last."""
    messages = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def test_the_page_sends_the_example_and_shows_the_result(
    service: Running, browser: webdriver.Chrome
) -> None:
    """Try it out, Execute; and nothing came from, or went to, any other host."""
    browser.get(f"{service.url}/docs")
    wait = WebDriverWait(browser, PAGE_TIMEOUT_S)

    def shown(selector: str) -> WebElement:
        whole = f"#operations-Predict-stream {selector}"
        return wait.until(lambda page: page.find_element(By.CSS_SELECTOR, whole))

    shown(".opblock-summary-control").click()
    shown(".try-out__btn").click()
    sent = json.loads(shown("textarea").text)
    shown(".execute").click()
    assert shown(".live-responses-table tbody .response-col_status").text.startswith("200")
    result = json.loads(shown(".live-responses-table .highlight-code code").text)

    assert set(sent["X"]) == set(customers.GOOD)
    assert result == service.post("/stream", sent).json()
    assert result["result"] in customers.LABELS
    addresses = [urlsplit(url) for url in requested(browser)]
    asked = [address for address in addresses if address.scheme not in WITHIN_THE_BROWSER]
    assert {address.netloc for address in asked} == {urlsplit(service.url).netloc}
    paths = {address.path for address in asked}
    assert {"/docs", "/openapi.json", "/stream", "/docs/swagger-ui-bundle.js"} <= paths
    assert not [entry for entry in log(browser, "browser") if entry["level"] == "SEVERE"]


def test_the_document_names_its_version(service: Running) -> None:
    """As every answer of a version does."""
    answer = requests.get(f"{service.url}/openapi.json", timeout=10)
    assert answer.json()["info"]["version"] == answer.headers["x-model-version"] == "local"
