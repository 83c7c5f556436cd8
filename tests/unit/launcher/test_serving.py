"""Where the service is asked, and what `make dev` takes of serve_config.yaml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from contract import strict
from launcher import ports, preflight, processes, serving
from launcher.errors import SettingError
from launcher.layout import Layout
from launcher.system import Options, System

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("options", "address"),
    [
        (None, "http://127.0.0.1:8123"),
        ({"port": 1}, "http://127.0.0.1:8123"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8123"),
        ({"host": "::"}, "http://127.0.0.1:8123"),
        ({"host": "10.0.0.7"}, "http://10.0.0.7:8123"),
        ({"host": "fd00::7"}, "http://[fd00::7]:8123"),
    ],
)
def test_the_service_is_asked_where_it_listens(
    options: dict[str, Any] | None, address: str
) -> None:
    """One address of its own is not loopback."""
    assert serving.address_of({"http_options": options}, 8123) == address


def test_a_host_that_ray_does_not_listen_on_is_refused_at_once(tmp_path: Path) -> None:
    """All requests would be answered with 500; in a container `--network` has it."""
    (tmp_path / "serve_config.yaml").write_text("http_options: {host: 10.0.0.7}")
    for name in ("serve.env", "contract", "launcher", "serve_app", "train"):
        (tmp_path / name).symlink_to(ROOT / name)
    system = System(Layout(tmp_path, tmp_path / "token"), Options(), {})
    with pytest.raises(SettingError, match="without --network it must be"):
        system.run()


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({}, ["logging_config", "args.rollout", "deployments"]),
        ({"args": {"model_name": "m", "limits": None}}, ["logging_config", "deployments"]),
        (
            {"args": {"limits": {}, "dispatch": {}}, "deployments": None, "route_prefix": "/a"},
            ["logging_config", "args.limits", "args.dispatch", "route_prefix"],
        ),
        (
            {"args": {}, "import_path": "my.app:build"},
            ["logging_config", "import_path", "deployments"],
        ),
    ],
)
def test_what_reloading_leaves_out_is_named(changes: dict[str, Any], unused: list[str]) -> None:
    """What the file sets, and only that."""
    config = strict.read_yaml(ROOT / "serve_config.yaml")
    config["applications"][0].update(changes)
    assert sorted(serving.left_out(config)) == sorted(unused)


def test_a_file_of_which_all_is_used_has_nothing_left_out() -> None:
    """Not even one that says what holds anyway."""
    application = {"name": "a", "import_path": "serve_app.app:build", "args": {"model_name": "m"}}
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "10.0.0.7", "port": 1},
        "applications": [application],
    }
    assert serving.left_out(config) == []
    assert serving.left_out({}) == []


def test_make_dev_says_what_it_leaves_out(
    tmp_path: Path,
    free_ports: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one line, before anything is deployed."""
    config = {"applications": [{"args": {"rollout": {"enabled": False}}, "deployments": []}]}
    (tmp_path / "serve_config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(preflight, "tool", lambda name: name)
    monkeypatch.setattr(processes, "start", lambda *started, **options: None)
    layout = Layout(tmp_path, tmp_path / "var" / "ray_token")
    serving.start_reloading(layout, ports.choose(free_ports, needs_mlflow=False), os.environ)
    [line] = capsys.readouterr().out.strip().splitlines()
    assert line.endswith(
        "serve_config.yaml, as Serve takes no file with --reload: args.rollout, deployments"
    )


def test_no_proxy_is_asked_for_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for an address of this machine's that `no_proxy` does not name either."""
    seen: list[bool] = []

    def get(session: Any, url: str, **options: Any) -> Any:
        seen.append(session.trust_env)
        raise requests.ConnectionError

    monkeypatch.setattr("requests.Session.get", get)
    assert not serving.answers("http://10.0.0.7:8000")
    assert seen == [False]
