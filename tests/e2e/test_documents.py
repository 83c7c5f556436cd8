"""Every command in the README and the docs does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import running
from tests.running import ROOT, Running

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ENGINE = "needs a container engine"

RUN_ELSEWHERE = {
    "make run": ("tests/ahead.py", '["make", "run"]'),
    "MODEL_NAME=diabetes-boosting make run CONFIG=train_config_boosting.yaml": (
        "tests/e2e/test_make_run.py",
        '["make", "run", "CONFIG=train_config_boosting.yaml"]',
    ),
    "make train": ("tests/e2e/test_make_run.py", '["make", "--silent", "train"]'),
    "make install": ("Makefile", "run: $(INSTALLED)"),
    "make test": (".ci/run", "make test"),
    "make test-system": ("Makefile", "-m system"),
    "make soak": ("tests/faults/test_soak.py", '"tests.faults.soak"'),
    "make lint": ("Makefile", "test: lint"),
    "make format": ("Makefile", "$(BIN)/ruff format --check ."),
    "make bench": ("tests/e2e/test_make_bench.py", '["make", "bench", "BENCH='),
    'make bench BENCH="--quick --only starlette"': (
        "tests/e2e/test_make_bench.py",
        '["make", "bench", "BENCH=--quick --only starlette"]',
    ),
    "make bench-packages": ("tests/e2e/test_make_bench.py", '["make", "bench-packages"]'),
    "make export": ("tests/e2e/test_make_run.py", '"export"'),
    'make rollback REASON="slow answers since Monday"': (
        "tests/integration/train/test_command.py",
        'run("rollback", "--reason", "slow answers")',
    ),
    'python -m serve_app rollout pause --reason "to look"': (
        "tests/integration/rollouts/test_rollout.py",
        '"pause", "--reason", "to look"',
    ),
    "python -m serve_app rollout resume": (
        "tests/integration/rollouts/test_rollout.py",
        'command(staged, "resume")',
    ),
    'python -m serve_app rollout promote --reason "we know it"': (
        "tests/integration/rollouts/test_rollout.py",
        '"promote", "--reason", "we know it"',
    ),
    'python -m serve_app rollout abort --reason "no more"': (
        "tests/integration/rollouts/test_rollout.py",
        '"abort", "--reason", "no more"',
    ),
    "TLS_CERTIFICATE=/etc/endeavour/tls.pem haproxy -f deploy/tls/haproxy.cfg": (
        "tests/tls.py",
        '[get_haproxy_binary(), "-db", "-f", str(CONFIG)]',
    ),
    "serve run serve_config.yaml": (
        "tests/integration/serving/test_start.py",
        '["serve", "run", "serve_config.yaml"]',
    ),
}
"""Commands that can't be run inside this test, and the line that runs each."""

SLOW = (
    "make train CONFIG=train_config_boosting.yaml",
    'make promote VERSION=1 REASON="checked by hand"',
    "python -m train signing-key --to var/signing",
    "ENDEAVOUR_SIGNING_KEY_FILE=var/signing/signing_key.pem python -m train sign --version 1",
    ".venv/bin/python -m benchmarks.rollouts --quick",
    ".venv/bin/python -m benchmarks.stages",
)
"""Commands that `make test` leaves to `make test-system`, with what they need."""


@dataclass(frozen=True)
class Block:
    """A fenced block and the one after it, if that is its output."""

    document: Path
    language: str
    text: str
    output: str | None


def blocks(language: str) -> list[Block]:
    """All blocks in a language, but for those that need a container engine."""
    found = []
    for document in DOCUMENTS:
        matches = list(BLOCK.finditer(document.read_text()))
        for at, match in enumerate(matches):
            if match[1] != language or ENGINE in match[2]:
                continue
            following = matches[at + 1] if at + 1 < len(matches) else None
            output = following[3] if following and following[1] == "text" else None
            found.append(Block(document, language, match[3], output))
    return found


def commands() -> list[Any]:
    """Every command line once, after the name of the first document that has it."""
    found: dict[str, str] = {}
    for block in blocks("sh"):
        joined = block.text.replace("\\\n", " ")
        for line in joined.splitlines():
            if line.strip() and not line.startswith("#"):
                found.setdefault(line.strip(), block.document.name)
    assert set(SLOW) <= found.keys()
    return [
        pytest.param(document, command, marks=[pytest.mark.system] if command in SLOW else [])
        for command, document in found.items()
    ]


def moved(text: str, service: Running) -> str:
    """Put a test's ports in the place of the default ones."""
    ports = {"8000": "PORT", "5000": "MLFLOW_PORT", "8265": "RAY_DASHBOARD_PORT"}
    for port, name in ports.items():
        text = re.sub(rf"(localhost|127\.0\.0\.1):{port}\b", rf"\1:{service.environ[name]}", text)
    return text


@pytest.fixture(scope="module")
def curl_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose .curlrc makes every answer from 400 on an exit code."""
    folder = tmp_path_factory.mktemp("curl")
    (folder / ".curlrc").write_text("fail-with-body\nfail-early\n")
    return folder


@pytest.mark.parametrize(("document", "command"), commands())
@pytest.mark.timeout(700)
def test_a_documented_command_works(
    first: Running, curl_home: Path, document: str, command: str
) -> None:
    """It ends with 0 in a copy with a running system, or the test that runs it is named."""
    if command in RUN_ELSEWHERE:
        file, line = RUN_ELSEWHERE[command]
        assert line in (ROOT / file).read_text()
        return
    environ = dict(first.environ)
    environ["PATH"] = f"{first.root / '.venv' / 'bin'}:{environ['PATH']}"
    environ["MLFLOW_TRACKING_URI"] = first.mlflow_uri
    environ["RAY_AUTH_MODE"] = "token"
    environ["RAY_AUTH_TOKEN_PATH"] = str(first.root / "var" / "ray_token")
    environ["CURL_HOME"] = str(curl_home)
    # The next run in this copy would ask for the keys that are made here.
    environ["ENDEAVOUR_API_KEYS_FILE"] = str(curl_home / "api_keys")
    completed = subprocess.run(
        ["/bin/bash", "-euc", moved(command, first)],
        cwd=first.root,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.document.name)
def test_a_documented_program_prints_what_is_written_below_it(first: Running, block: Block) -> None:
    """The README's answers are the real ones."""
    completed = subprocess.run(
        [sys.executable, "-c", moved(block.text, first)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert block.output is not None
    numbers = re.compile(r"-?\d+\.\d+")
    assert numbers.sub("#", completed.stdout) == numbers.sub("#", block.output)
    said = [float(number) for number in numbers.findall(completed.stdout)]
    assert said == pytest.approx([float(number) for number in numbers.findall(block.output)])


def test_every_link_to_a_file_leads_somewhere() -> None:
    """No document points at what isn't there."""
    for document in DOCUMENTS:
        for target, _ in LINK.findall(document.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_make_target_that_is_named_exists() -> None:
    """`make X` in a document is a target of the Makefile."""
    listed = subprocess.run(
        ["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = set(re.findall(r"make ([a-z-]+)", listed))
    for document in DOCUMENTS:
        named = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
        assert named <= targets, document.name


@pytest.mark.system
@pytest.mark.timeout(300)
def test_the_project_installs_into_an_environment_of_ones_own(tmp_path: Path) -> None:
    """`pip install -e .` makes the four packages importable from anywhere."""
    copy = running.copy_project(tmp_path / "project")
    environment = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
    python = environment / "bin" / "python"
    # The dependencies themselves are what `make run` installs from the lock.
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-e", "."]
    subprocess.run(install, cwd=copy, check=True, timeout=200)
    program = "import contract, launcher, serve_app, train; print(train.__file__)"
    completed = subprocess.run(
        [str(python), "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert completed.stdout.startswith(str(copy))
