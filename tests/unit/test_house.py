"""The rules of the house that a reader can't see in one file."""

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(file.name for file in ROOT.glob("*.lock"))
PURE = {
    "train/gate.py": {"ray", "mlflow", "starlette"},
    "serve_app/records/reader.py": {"ray", "mlflow", "starlette"},
    "serve_app/records/columns.py": {"ray", "mlflow", "starlette"},
    "serve_app/records/strict_json.py": {"ray", "mlflow", "starlette"},
    "serve_app/records/rows.py": {"ray", "mlflow", "starlette"},
    "serve_app/models/predictions.py": {"ray", "mlflow", "starlette"},
    "serve_app/calls/coalescer.py": {"ray", "mlflow", "starlette"},
    "serve_app/models/model.py": {"ray", "mlflow", "starlette"},
    "serve_app/models/blame.py": {"ray", "mlflow", "starlette"},
    "serve_app/protocols/original.py": {"ray", "mlflow", "starlette"},
    "serve_app/http/endpoint.py": {"ray", "mlflow", "sklearn", "skops"},
    "serve_app/openapi/document.py": {"ray", "mlflow", "starlette"},
    "serve_app/openapi/operations.py": {"ray", "mlflow", "starlette"},
    "serve_app/openapi/schemas.py": {"ray", "mlflow", "starlette"},
    "serve_app/openapi/mlflow_openapi.py": {"ray", "mlflow", "starlette"},
    "serve_app/openapi/open_inference_openapi.py": {"ray", "mlflow", "starlette"},
    "serve_app/http/routes.py": {"ray", "mlflow", "sklearn", "skops"},
    "serve_app/ingress.py": {"mlflow", "sklearn", "skops"},
    "serve_app/routing.py": {"ray", "mlflow", "starlette"},
    "serve_app/description.py": {"ray", "mlflow", "starlette"},
    "serve_app/control/conductor.py": {"ray", "mlflow", "starlette"},
    "serve_app/control/record.py": {"ray", "mlflow", "starlette"},
    "serve_app/control/fleet.py": {"ray", "mlflow", "starlette"},
    "serve_app/control/labels.py": {"ray", "mlflow", "starlette"},
    "serve_app/rollouts/policy.py": {"ray", "mlflow", "starlette"},
    "serve_app/rollouts/evidence.py": {"ray", "mlflow", "starlette"},
    "serve_app/rollouts/bounds.py": {"ray", "mlflow", "starlette"},
    "serve_app/rollouts/verdicts.py": {"ray", "mlflow", "starlette"},
    "serve_app/rollouts/rollout.py": {"ray", "mlflow", "starlette"},
    "serve_app/rollouts/assignment.py": {"ray", "mlflow", "starlette"},
    "serve_app/metrics/counts.py": {"ray", "mlflow", "starlette"},
    "serve_app/metrics/reports.py": {"ray", "mlflow", "starlette"},
    "serve_app/metrics/exposition.py": {"ray", "mlflow", "starlette"},
}


def imported(file: Path) -> set[str]:
    """The top-level names of all modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("contract", {"train", "serve_app", "launcher"}),
        ("train", {"serve_app", "launcher"}),
        ("serve_app", {"train", "launcher"}),
        ("launcher", {"train"}),
    ],
)
def test_rooms_do_not_import_each_other(room: str, others: set[str]) -> None:
    """Training and serving meet in MLflow and in the contract."""
    for file in (ROOT / room).rglob("*.py"):
        assert imported(file).isdisjoint(others), file


@pytest.mark.parametrize(("file", "foreign"), PURE.items())
def test_decisions_and_the_hot_path_stay_free_of_what_they_do_not_need(
    file: str, foreign: set[str]
) -> None:
    """Ray, MLflow and HTTP stay at the edges."""
    assert imported(ROOT / file).isdisjoint(foreign)


@pytest.mark.parametrize("name", LOCKS)
def test_locks_have_exact_versions_with_hashes_and_no_index(name: str) -> None:
    """Every requirement is pinned and hashed; where it is fetched from is the user's choice."""
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    requirements = re.split(r"\n(?=[a-z])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    assert len(requirements) > 40
    for requirement in requirements:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,_-]+\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


@pytest.mark.parametrize("room", ["contract", "launcher", "serve_app", "train"])
def test_what_runs_in_production_is_in_the_lock(room: str) -> None:
    """`make run` installs requirements.lock, and no tool of `make test`."""
    text = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==", text, flags=re.MULTILINE))
    distributions = metadata.packages_distributions()
    for file in (ROOT / room).rglob("*.py"):
        for module in imported(file) & distributions.keys():
            found = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions[module]}
            assert found & locked, f"{file}: {module}"


def test_what_makes_runs_and_caches_is_not_tracked() -> None:
    """Everything that running makes is under var/, and var/ is ignored."""
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/var/", "/.venv/"} <= set(ignored)
