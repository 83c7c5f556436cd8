"""Dockerfile, compose file and workflows: what they name exists, and what must be closed is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher import environment, stop
from launcher.mlflow_accounts import ACCOUNTS
from serve_app.calls import wire
from tests.e2e.dockerfile import ROOT, chain, read
from tests.integration.deploy import compose

STAGES = read()
COMPOSE = compose.read(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PRODUCTION = compose.services(compose.PRODUCTION)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCS = (ROOT / "docs" / "containers.md").read_text()


def tracked() -> set[str]:
    """Every file and folder of the repository, as git has it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [Path(line) for line in listed.stdout.splitlines()]
    return {str(path) for file in files for path in (file, *file.parents)}


def test_every_path_that_the_image_copies_is_in_the_repository() -> None:
    copied = {
        source.rstrip("/")
        for stage in STAGES.values()
        for one in stage.all_of("COPY")
        if "from" not in one.flags
        for source in one.words[:-1]
    }
    assert copied <= tracked()


def test_nothing_that_the_image_copies_is_kept_out_of_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = {line for line in lines if line and not line.startswith("#")}
    needed = {name for name in tracked() if "/" not in name}
    assert ignored.isdisjoint(needed | {".git"})


def test_what_comes_from_another_stage_names_one() -> None:
    origins = [one.flags.get("from") for one in STAGES["serve"].all_of("COPY")]
    assert [name for name in origins if name] == ["install", "model"]
    assert STAGES["install"].base == STAGES["serve"].base == "base"


def test_the_base_image_has_an_exact_version_and_the_python_of_the_lock() -> None:
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", STAGES["base"].base)


def test_the_image_runs_as_a_numbered_user_who_owns_only_what_it_writes_to() -> None:
    user = STAGES["serve"].last("USER").text
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    uid, gid = user.split(":")
    made = STAGES["serve"].last("RUN").text
    assert made.count(f"--owner={uid} --group={gid}") == made.count("install --directory")
    assert not any("chown" in one.flags for one in STAGES["serve"].all_of("COPY"))


def test_every_requirement_has_an_exact_version_and_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    wanted = [line for line in lock.splitlines() if line.strip() and not line.startswith("#")]
    assert len(wanted) > 50
    assert [line for line in wanted if "==" not in line or "--hash=sha256:" not in line] == []


def test_variables_of_the_containers_are_read_by_the_code() -> None:
    code = "\n".join(
        file.read_text()
        for package in ("contract", "launcher", "serve_app", "train")
        for file in (ROOT / package).rglob("*.py")
    )
    services = [*SERVICES.values(), PRODUCTION["web"], PRODUCTION["train"], PRODUCTION["accounts"]]
    named = {name for one in services for name in one.get("environment", {})}
    for stage in chain(STAGES, "serve"):
        named |= {name for one in stage.all_of("ENV") for name in one.pairs}
    ours = {name for name in named if name != "PATH" and not name.startswith(("PIP_", "PYTHON"))}
    assert {name for name in ours if name not in code} == set()


def test_containers_get_the_environment_that_make_run_gives() -> None:
    assert {name: SERVICES[name]["env_file"] for name in ("mlflow", "web", "train")} == {
        "mlflow": "serve.env",
        "web": "serve.env",
        "train": "serve.env",
    }
    assert environment.of_file(ROOT / "serve.env")["RAY_AUTH_MODE"] == "token"


def test_a_call_by_serve_may_be_as_large_as_one_by_line() -> None:
    given = environment.of_file(ROOT / "serve.env")
    assert given["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"] == str(wire.MAX_FRAME_BYTES)


def test_services_build_stages_that_exist() -> None:
    targets = {one["build"]["target"] for one in SERVICES.values() if "build" in one}
    assert targets == {"serve", "test"}
    assert targets <= set(STAGES)


def test_only_the_service_is_published() -> None:
    """MLflow and Ray's dashboard are on a network that leads nowhere."""
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert published == {"web": ["${PORT:-8000}:8000"]}
    assert COMPOSE["networks"] == {"inside": {"internal": True}}
    networks = {name: one.get("networks") for name, one in SERVICES.items()}
    assert networks == {
        "web": ["default", "inside"],
        "mlflow": ["inside"],
        "train": ["inside"],
        "test": None,
    }


def test_mlflows_page_is_shown_to_this_machine_only() -> None:
    shown = compose.services(ROOT / "deploy" / "compose.mlflow-page.yml")
    assert shown["mlflow"]["ports"] == ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"]
    assert shown.keys() == {"mlflow"}


def test_containers_write_to_their_volumes_and_to_a_folder_in_memory() -> None:
    for name in ("web", "mlflow", "train"):
        assert (SERVICES[name]["read_only"], SERVICES[name]["tmpfs"]) == (True, ["/tmp"])
    assert all(PRODUCTION[name]["read_only"] for name in ("tls", "accounts"))


def test_ray_asks_for_its_token_wherever_compose_starts_or_asks_it() -> None:
    for name in ("web", "train"):
        assert SERVICES[name]["env_file"] == "serve.env"
        assert SERVICES[name]["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/endeavour/ray_token"
    assert "token:/run/endeavour" in SERVICES["web"]["volumes"]
    assert "token:/run/endeavour:ro" in SERVICES["train"]["volumes"]


def test_in_production_only_tls_is_published() -> None:
    """`!reset` takes the service's own port away."""
    published = {name: one["ports"] for name, one in PRODUCTION.items() if "ports" in one}
    assert published == {
        "web": None,
        "tls": ["${HTTPS_PORT:-443}:8443", "${HTTP_PORT:-80}:8080"],
    }
    assert PRODUCTION["tls"]["environment"]["SERVICE"] == "web:8000"


def test_in_production_each_has_the_secrets_that_it_needs() -> None:
    """The one that ends TLS has no key of MLflow, and nobody but MLflow its administrator's."""
    given = {name: set(one.get("secrets", [])) for name, one in PRODUCTION.items()}
    assert given == {
        "mlflow": {"mlflow_auth", "mlflow_flask_key"},
        "accounts": {"mlflow_auth", *ACCOUNTS},
        "web": set(ACCOUNTS),
        "train": set(),
        "tls": {"tls_certificate"},
    }
    files = compose.read(compose.PRODUCTION)["secrets"]
    assert set().union(*given.values()) == files.keys()
    assert all(one["file"].startswith("./var/secrets/") for one in files.values())


def test_in_production_nothing_starts_without_keys_and_accounts() -> None:
    web = PRODUCTION["web"]
    assert web["environment"]["ENDEAVOUR_ENV"] == "production"
    assert web["environment"]["ENDEAVOUR_API_KEYS_FILE"].startswith("/run/keys/")
    assert web["volumes"] == [
        "./var/secrets/keys:/run/keys:ro",
        "./var/secrets/signing:/run/signing:ro",
    ]
    assert web["depends_on"]["accounts"]["condition"] == "service_completed_successfully"
    assert "--app-name=basic-auth" in PRODUCTION["mlflow"]["command"][-1]


def test_mlflow_in_production_differs_in_its_accounts_only() -> None:
    *_, script = PRODUCTION["mlflow"]["command"]
    options = {word for word in script.split() if word.startswith("--")}
    assert options - {"--app-name=basic-auth"} == {
        word for word in SERVICES["mlflow"]["command"] if word.startswith("--")
    }


def test_volumes_are_mounted_on_folders_that_the_image_has() -> None:
    words = [word for one in STAGES["serve"].all_of("RUN") for word in one.words]
    made = [f"/app/{word}".replace("/app//", "/") for word in words]
    for one in SERVICES.values():
        for mount in one.get("volumes", []):
            name, folder, *_ = mount.split(":")
            assert name in COMPOSE["volumes"]
            assert folder in made


def test_up_starts_neither_the_job_nor_the_tests() -> None:
    assert {name for name, one in SERVICES.items() if "profiles" not in one} == {"web", "mlflow"}


def test_containers_get_the_time_that_the_launcher_takes_to_stop() -> None:
    grace_s = int(SERVICES["web"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > stop.PATIENCE_S


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_by_commit_and_say_their_version(file: Path) -> None:
    used = re.findall(r"uses: (.*)", file.read_text())
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert used
    assert [line for line in used if not pinned.fullmatch(line)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_grant_nothing_by_default(file: Path) -> None:
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    granted = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    assert granted.pop("publish", {"contents": "read", "packages": "write"}) == {
        "contents": "read",
        "packages": "write",
    }
    assert all(permissions == {"contents": "read"} for permissions in granted.values())


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_call_make_targets_that_exist(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"(?:run:|nohup) make ([a-z-]+)", file.read_text()))
    assert called
    assert called <= targets


def test_the_workflow_makes_every_secret_that_the_docs_make() -> None:
    """Without one of them nothing is served in production."""
    text = (ROOT / "docs" / "security.md").read_text()
    production = text.partition("## In production")[2].partition("```sh\n")[2].partition("```")[0]
    commands = [line.removeprefix("python -m ").split(" --")[0] for line in production.splitlines()]
    assert len(commands) == 3
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert all(f"make_secrets {command}" in workflow for command in commands)


def test_what_is_under_way_in_production_is_answered_before_tls_ends() -> None:
    """By HAProxy's soft stop, and longer than it takes."""
    config = (ROOT / "deploy" / "tls" / "haproxy.cfg").read_text()
    hard_stop_s = int(re.findall(r"hard-stop-after (\d+)s", config)[0])
    assert hard_stop_s >= int(re.findall(r"timeout server (\d+)s", config)[0])
    tls = PRODUCTION["tls"]
    assert tls["stop_signal"] == "SIGUSR1"
    assert int(tls["stop_grace_period"].removesuffix("s")) > hard_stop_s


def test_the_image_of_the_tests_has_the_system_packages_that_they_need() -> None:
    makefile = (ROOT / "Makefile").read_text()
    tools = re.findall(r"for tool in (.+); do", makefile)[0].split()
    words = [word for one in STAGES["test"].all_of("RUN") for word in one.words]
    assert {tool.rpartition(":")[2] for tool in tools} <= set(words)


def test_training_on_demand_offers_the_shipped_settings() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "train.yml").read_text())
    # YAML 1.1 reads the key `on` as a boolean.
    offered = workflow[True]["workflow_dispatch"]["inputs"]["config"]["options"]
    assert offered == sorted(file.name for file in ROOT.glob("train_config*.yaml"))


def test_documented_compose_commands_name_services() -> None:
    named = re.findall(r"^docker-compose (?:run|up|restart|build) ([a-z]+)", DOCS, re.MULTILINE)
    assert {"test", "web", "train"} <= set(named)
    assert set(named) <= set(SERVICES)
