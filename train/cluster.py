"""The Ray cluster that cross-validation and the gate's bootstrap run on, through joblib."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import joblib

from train import deadline
from train.errors import UnreachableError

PROBE_TIMEOUT_S = 5.0
POLL_S = 0.2


@contextmanager
def connect(wait_s: float, environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Connect to the cluster at `RAY_ADDRESS`, or to a local one that ends with the block.

    Raises UnreachableError if nothing answers within about `wait_s`.
    """
    address = environ.get("RAY_ADDRESS") or "local"
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address not in ("local", "auto"):
        _probe(address)
    with ExitStack() as stack:
        if address == "local":
            folder = Path(stack.enter_context(_own_folder(environ)))
            _use_own_token(folder, environ)
            _init(address, wait_s, folder)
        else:
            _init(address, wait_s)
        import ray  # noqa: PLC0415  # reads the token's path when it is imported

        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def workers(tasks: int, wait_s: float) -> Iterator[None]:
    """Run joblib's parallel calls in the block on the cluster, at most `tasks` at once.

    Raises UnreachableError if no CPU comes free, or the block isn't done, within `wait_s`.
    """
    started = time.monotonic()
    count, share = _share(_free_cpus(wait_s), tasks)
    left_s = max(1.0, wait_s - (time.monotonic() - started))
    from ray.exceptions import RayError  # noqa: PLC0415
    from ray.util.joblib import register_ray  # noqa: PLC0415

    register_ray()  # type: ignore[no-untyped-call]
    # Ray carries arguments to other machines, so nothing may be left in a file of this one.
    settings = {"max_nbytes": None, "ray_remote_args": {"num_cpus": share}}
    try:
        with deadline.limit(left_s), joblib.parallel_config("ray", n_jobs=count, **settings):
            yield
    except deadline.DeadlineExceededError as error:
        raise UnreachableError(
            f"Ray was not done within {wait_s:g} s: give it more CPUs, or raise deadlines.compute_s"
        ) from error
    except RayError as error:
        raise UnreachableError(f"Ray failed: {str(error).splitlines()[0]}") from error


def _share(free_cpus: int, tasks: int) -> tuple[int, float]:
    """Return the number of workers and the CPUs of each.

    joblib runs a pool of one in this very process; so two workers share a lone CPU. Ray's pool
    refuses to be larger than the cluster has CPUs, busy or not.
    """
    import ray  # noqa: PLC0415

    total = _whole_cpus(ray.cluster_resources())  # type: ignore[no-untyped-call]
    count = max(1, min(max(2, free_cpus), tasks, total))
    return count, min(1.0, free_cpus / count)


def _whole_cpus(resources: Mapping[str, float]) -> int:
    return int(resources.get("CPU", 0))


def _free_cpus(wait_s: float) -> int:
    """Return the number of whole free CPUs, once there is one."""
    import ray  # noqa: PLC0415

    until = time.monotonic() + wait_s
    while (free := _whole_cpus(ray.available_resources())) < 1:  # type: ignore[no-untyped-call]
        if time.monotonic() > until:
            raise UnreachableError(
                f"no free CPU on the Ray cluster within {wait_s:g} s: stop other work, add a node, "
                "or raise deadlines.compute_s"
            )
        time.sleep(POLL_S)
    return free


def _probe(address: str) -> None:
    """`ray.init` itself tries a dead address for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise UnreachableError(
            f"no Ray cluster answers at {address} ({error}): start it, or correct RAY_ADDRESS"
        ) from error


def _own_folder(environ: Mapping[str, str]) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for a local cluster's token, logs and sockets, deleted with the block.

    A socket's path has 107 bytes at most, and Ray adds some 70: so the folder is not looked for
    in TMPDIR, which may be long. Ray's processes may still write a last line while it is deleted.
    Raises UnreachableError if it can't be made.
    """
    parent = environ.get("RAY_TMPDIR") or ("/tmp" if os.access("/tmp", os.W_OK) else None)
    try:
        return tempfile.TemporaryDirectory(prefix="ray-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise UnreachableError(
            f"no folder for the local Ray cluster ({error}): correct RAY_TMPDIR"
        ) from error


def _use_own_token(folder: Path, environ: MutableMapping[str, str]) -> None:
    """Keep a local cluster closed to others, without the token that Ray would put in the home."""
    tokens = (environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if environ.get("RAY_AUTH_MODE", "token") != "token" or any(tokens):
        return
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environ["RAY_AUTH_MODE"] = "token"
    environ["RAY_AUTH_TOKEN_PATH"] = str(token)


def _init(address: str, wait_s: float, folder: Path | None = None) -> None:
    import ray  # noqa: PLC0415

    # A port that accepts and then says nothing holds `ray.init` in native code, which no
    # exception interrupts: only the end of the process does.
    watchdog = threading.Timer(wait_s, _give_up, (address, wait_s))
    watchdog.daemon = True
    watchdog.start()
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # To be given for a cluster of one's own only; None leaves it open.
            include_dashboard=False if address == "local" else None,
            _temp_dir=str(folder) if folder else None,
        )
    except Exception as error:  # a start that fails raises plain Exception, among others
        reason = str(error).strip().splitlines()[0]
        raise UnreachableError(f"no Ray cluster at {address}: {reason}") from error
    finally:
        watchdog.cancel()


def _give_up(address: str, wait_s: float) -> None:
    print(f"error: no Ray cluster answers at {address} within {wait_s:g} s", file=sys.stderr)
    sys.stderr.flush()
    os._exit(UnreachableError.exit_code)
