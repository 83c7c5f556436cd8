"""A version is tried in a process of its own, and whatever becomes of that is an answer."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from contract import names
from serve_app.model_errors import UnservableModelError
from serve_app.models import model_files
from serve_app.models.rehearsal import Rehearsals
from serve_app.models.served import ServedModel, ServedVersion, describe
from tests import models, odd_models, running

LONG_S = 60.0
ROWS = np.random.default_rng(0).normal(size=(20, 2))
VERSION = ServedVersion("m", "2", None, "models:/m/2", "ab" * 32)


@pytest.fixture(scope="module")
def rehearsals() -> Iterator[Rehearsals]:
    """What tries versions, as the controller has it."""
    rehearsals = Rehearsals()
    asyncio.run(rehearsals.start())
    yield rehearsals
    asyncio.run(rehearsals.close())


Try = Callable[..., ServedModel]


@pytest.fixture
def tried(rehearsals: Rehearsals) -> Try:
    """Return what is found out of a version."""

    def find(
        directory: Path, version: ServedVersion = VERSION, timeout_s: float = LONG_S
    ) -> ServedModel:
        return asyncio.run(
            rehearsals.rehearse(version, directory, tuple(odd_models.TRUSTED), timeout_s)
        )

    return find


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can be served."""
    estimator = LinearRegression().fit(ROWS, ROWS @ [1.0, 2.0])
    return models.write(tmp_path_factory.mktemp("good") / "model", estimator, ROWS, ["a", "b"])


Write = Callable[[str], Path]


@pytest.fixture
def coded(tmp_path: Path) -> Write:
    """Write a model that runs some code while it is loaded."""

    def write(code: str) -> Path:
        with odd_models.behaving():
            estimator = odd_models.Coded(code=code)
            return models.write(tmp_path / "coded", estimator, ROWS, ["a", "b"], odd_models.TRUSTED)

    return write


@pytest.mark.parametrize("labels", [None, ["no", "yes"], [0, 1]])
def test_what_a_child_finds_out_is_what_we_would_have(
    tmp_path: Path, tried: Try, labels: list[Any] | None
) -> None:
    """Of numbers, and of labels of either kind, without our reading the model."""
    if labels is None:
        estimator: Any = LinearRegression().fit(ROWS, ROWS[:, 0])
    else:
        estimator = LogisticRegression().fit(ROWS, np.asarray(labels)[(ROWS[:, 0] > 0).astype(int)])
    directory = models.write(tmp_path / "model", estimator, ROWS, ["a", "b"])
    found = tried(directory)
    expected = describe(VERSION, model_files.read(directory))
    assert found == expected
    assert found.labels == (None if labels is None else tuple(labels))
    assert found.example.tolist() == expected.example.tolist()


def test_a_model_that_answers_otherwise_than_in_training_is_refused(
    directory: Path, tried: Try
) -> None:
    """The reason comes from the child, and is one that people can read."""
    version = replace(VERSION, expected=[123.0])
    with pytest.raises(UnservableModelError, match=r"but training recorded \[123\.0\]"):
        tried(directory, version)


def test_a_file_that_cannot_be_read_is_refused(directory: Path, tmp_path: Path, tried: Try) -> None:
    """As a disk or a network leaves it."""
    broken = tmp_path / "model"
    broken.mkdir()
    for file in directory.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / names.MODEL_FILE).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UnservableModelError, match="not a readable skops file"):
        tried(broken)


@pytest.mark.parametrize("sign", [signal.SIGSEGV, signal.SIGKILL])
def test_a_child_that_a_signal_ends_takes_nobody_along(
    coded: Write, tried: Try, sign: signal.Signals
) -> None:
    """A fault in a library's own code, or the kernel that needs its memory."""
    no_core = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    spoiled = coded(f"{no_core}\nimport os; os.kill(os.getpid(), {int(sign)})")
    with pytest.raises(UnservableModelError, match=f"ended its process by {sign.name}"):
        tried(spoiled)


def test_a_child_that_ends_by_itself_is_quoted(coded: Write, tried: Try) -> None:
    """The end of what it said, not all of it."""
    spoiled = coded("import os; os.write(2, b'x' * 999_999 + b'no licence'); os._exit(7)")
    with pytest.raises(UnservableModelError, match=r"with code 7: x+no licence$") as raised:
        tried(spoiled)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os._exit(0)", "before it said what it is like"),
        ("import os; print('{}', flush=True); os._exit(0)", "before it said what it is like"),
        ("import os; os._exit(2)", "with code 2"),
        ("raise SystemExit(3)", "with code 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os; os.kill(os.getpid(), 40)", "by signal 40"),
    ],
)
def test_a_child_that_says_nothing_of_use_is_a_reason(
    coded: Write, tried: Try, code: str, why: str
) -> None:
    """Or the version would be tried again for ever."""
    with pytest.raises(UnservableModelError, match=why):
        tried(coded(code))


def test_a_grandchild_goes_with_the_child(coded: Write, tried: Try, tmp_path: Path) -> None:
    """A model may start processes of its own; whatever becomes of the model itself."""
    note = tmp_path / "pid"
    start = (
        "import pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\n"
    )
    tried(coded(start))
    running.wait_for(lambda: not psutil.pid_exists(int(note.read_text())), 10)
    note.unlink()
    shutil.rmtree(tmp_path / "coded")
    with pytest.raises(UnservableModelError, match="within"):
        tried(coded(f"{start}time.sleep(600)"), timeout_s=2.0)
    running.wait_for(lambda: not psutil.pid_exists(int(note.read_text())), 10)


def test_a_child_that_does_not_return_is_given_up(
    coded: Write, directory: Path, tried: Try
) -> None:
    """Others wait for their turn, and get it."""
    with pytest.raises(UnservableModelError, match=r"not loaded and tried within 0\.1 s"):
        tried(coded("import time; time.sleep(600)"), timeout_s=0.1)
    assert tried(directory).result_type == "f"


def test_what_a_child_says_beside_its_answer_does_no_harm(coded: Write, tried: Try) -> None:
    """Libraries greet on standard output, some with more than a pipe holds."""
    assert tried(coded("print('welcome' * 99_999)")).result_type == "f"


def test_a_version_is_tried_while_another_hangs(
    rehearsals: Rehearsals, coded: Write, directory: Path
) -> None:
    """A version that somebody needs at once must not wait for one that never returns."""
    hanging = coded("import time; time.sleep(600)")
    trusted = tuple(odd_models.TRUSTED)

    async def scenario() -> None:
        stuck = asyncio.create_task(rehearsals.rehearse(VERSION, hanging, trusted, LONG_S))
        await asyncio.sleep(0.5)
        assert (await rehearsals.rehearse(VERSION, directory, (), LONG_S)).result_type == "f"
        assert not stuck.done()
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)

    asyncio.run(scenario())


def test_nothing_is_imported_again_for_the_next_version(
    rehearsals: Rehearsals, directory: Path
) -> None:
    """Two seconds of a processor are what a node under load has not: one server tries them all."""

    async def scenario() -> None:
        await rehearsals.start()
        servers = _fork_servers()
        assert len(servers) == 1
        for _ in range(3):
            await rehearsals.rehearse(VERSION, directory, (), LONG_S)
            assert _fork_servers() == servers

    asyncio.run(scenario())


def test_a_server_that_has_died_is_replaced(rehearsals: Rehearsals, directory: Path) -> None:
    """The kernel may take it when memory runs out; no version is to blame."""

    async def scenario() -> None:
        await rehearsals.start()
        for server in _fork_servers():
            os.kill(server, signal.SIGKILL)
            os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
        assert (await rehearsals.rehearse(VERSION, directory, (), LONG_S)).result_type == "f"

    asyncio.run(scenario())


def test_no_child_is_left_behind(coded: Write, tmp_path: Path) -> None:
    """Nobody wants to know any more: the server's input ends, as if the controller were killed."""
    note = tmp_path / "pid"
    spoiled = coded(
        "import os, pathlib, time\n"
        f"note = pathlib.Path({str(note)!r})\n"
        "note.with_suffix('.new').write_text(str(os.getpid()))\n"
        "note.with_suffix('.new').rename(note)\n"
        "time.sleep(600)"
    )

    async def scenario() -> None:
        rehearsals = Rehearsals()
        trusted = tuple(odd_models.TRUSTED)
        task = asyncio.create_task(rehearsals.rehearse(VERSION, spoiled, trusted, LONG_S))
        async with asyncio.timeout(LONG_S):
            while not note.exists():
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def _fork_servers() -> set[int]:
    """The fork servers of this process that live."""
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE
        and "serve_app.models.fork_server" in child.cmdline()
    }
