"""A version is tried in a process of its own, and whatever becomes of that is an answer."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from contract import names
from serve_app.model_errors import NotNowError, UnservableModelError
from serve_app.models import model_files
from serve_app.models.rehearsal import Rehearsals
from serve_app.models.served import ServedModel, ServedVersion, describe
from tests import models, odd_models, running

LONG_S = 60.0
ROWS = np.random.default_rng(0).normal(size=(20, 2))
VERSION = ServedVersion("m", "2", None, "models:/m/2", "ab" * 32)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """The one event loop of these tests."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def rehearsals(runner: asyncio.Runner) -> Iterator[Rehearsals]:
    """What tries versions, as the controller has it."""
    rehearsals = Rehearsals()

    async def start() -> None:
        rehearsals.start()

    runner.run(start())
    yield rehearsals
    runner.run(rehearsals.close())
    assert _fork_servers() == set()


Try = Callable[..., ServedModel]


@pytest.fixture
def tried(runner: asyncio.Runner, rehearsals: Rehearsals) -> Try:
    """Return what is found out of a version."""

    def find(
        directory: Path, version: ServedVersion = VERSION, timeout_s: float = LONG_S
    ) -> ServedModel:
        trusted = tuple(odd_models.TRUSTED)
        return runner.run(rehearsals.rehearse(version, directory, trusted, timeout_s))

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
        ("import os; os._exit(2)", "with code 2"),
        ("raise SystemExit(3)", "with code 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os; os.kill(os.getpid(), 40)", "by signal 40"),
        ("import os; os.closerange(3, 99)", "with code 1"),
    ],
)
def test_a_child_that_says_nothing_of_use_is_a_reason(
    coded: Write, tried: Try, code: str, why: str
) -> None:
    """Or the version would be tried again for ever."""
    with pytest.raises(UnservableModelError, match=why):
        tried(coded(code))


@pytest.mark.parametrize("said", ["junk", "{}", "[]", '{"code": 0}', "null", "{} {}"])
def test_an_answer_that_is_none_is_a_reason(
    directory: Path, rehearsals: Rehearsals, runner: asyncio.Runner, said: str
) -> None:
    """Whatever may have written it."""

    async def answer(request: bytes) -> bytes:
        return json.dumps({"code": 0, "answer": said, "said": ""}).encode()

    async def garbage(request: bytes) -> bytes:
        return said.encode()

    for instead in (answer, garbage):
        with (
            mock.patch.object(rehearsals, "_ask", instead),
            pytest.raises(UnservableModelError, match="before it said what it is like"),
        ):
            runner.run(rehearsals.rehearse(VERSION, directory, (), LONG_S))


GRANDCHILD = (
    "import os, pathlib, subprocess, time\n"
    "{start}\n"
    "note = pathlib.Path({note!r})\n"
    "note.with_suffix('.new').write_text(str(pid))\n"
    "note.with_suffix('.new').rename(note)\n"
)
BEGUN = {
    "started": "pid = subprocess.Popen(['sleep', '600']).pid",
    "forked": "pid = os.fork()\nif not pid: time.sleep(600)",
    "loud": "pid = subprocess.Popen(['yes']).pid",
}


@pytest.mark.parametrize("start", BEGUN.values(), ids=BEGUN.keys())
def test_a_grandchild_goes_with_the_child(
    coded: Write, tried: Try, tmp_path: Path, start: str
) -> None:
    """A model may start processes of its own; they hold up nobody."""
    note = tmp_path / "pid"
    tried(coded(GRANDCHILD.format(note=str(note), start=start)))
    running.wait_for(lambda: _is_gone(int(note.read_text())), 10, every_s=0.02)


def test_a_child_reads_nothing_of_what_the_server_is_asked(coded: Write, tried: Try) -> None:
    """What it starts and what reads standard input is at its end at once."""
    assert tried(coded("import subprocess; subprocess.run(['cat'])")).result_type == "f"


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


def test_what_is_said_at_a_start_is_no_answer(
    runner: asyncio.Runner, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each version would get the answer of the one before."""
    (tmp_path / "sitecustomize.py").write_text("print('welcome', flush=True)")
    monkeypatch.syspath_prepend(tmp_path)
    rehearsals = Rehearsals()

    async def scenario() -> None:
        found = await rehearsals.rehearse(VERSION, directory, (), LONG_S)
        assert found == describe(VERSION, model_files.read(directory))
        with pytest.raises(UnservableModelError, match="no readable MLmodel"):
            await rehearsals.rehearse(VERSION, tmp_path, (), LONG_S)
        await rehearsals.close()

    runner.run(scenario())


def test_a_version_is_tried_while_another_hangs(
    runner: asyncio.Runner, rehearsals: Rehearsals, coded: Write, directory: Path
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

    runner.run(scenario())


def test_nothing_is_imported_again_for_the_next_version(
    runner: asyncio.Runner, rehearsals: Rehearsals, directory: Path
) -> None:
    """Two seconds of a processor are what a node under load has not: one server tries them all."""

    async def scenario() -> None:
        await rehearsals.rehearse(VERSION, directory, (), LONG_S)
        servers = _fork_servers()
        for _ in range(2):
            await rehearsals.rehearse(VERSION, directory, (), LONG_S)
            assert _fork_servers() == servers
        # What is forked amid threads may deadlock.
        assert {psutil.Process(server).num_threads() for server in servers} == {1}

    runner.run(scenario())


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_server_that_has_died_is_replaced(
    runner: asyncio.Runner, rehearsals: Rehearsals, directory: Path, is_asked: bool
) -> None:
    """The kernel may take it when memory runs out; no version is to blame."""

    async def scenario() -> None:
        await rehearsals.rehearse(VERSION, directory, (), LONG_S)
        servers = _fork_servers()
        for server in servers:
            os.kill(server, signal.SIGSTOP if is_asked else signal.SIGKILL)
            if not is_asked:
                os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
        trial = asyncio.create_task(rehearsals.rehearse(VERSION, directory, (), LONG_S))
        await asyncio.sleep(0.1)
        if is_asked:
            for server in servers:
                os.kill(server, signal.SIGKILL)
        assert (await trial).result_type == "f"
        assert _fork_servers().isdisjoint(servers)

    runner.run(scenario())


def test_a_server_that_always_dies_is_a_reason(
    runner: asyncio.Runner, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It isn't started for ever."""
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    rehearsals = Rehearsals()

    async def scenario() -> None:
        with pytest.raises(NotNowError, match="the fork server has ended"):
            await rehearsals.rehearse(VERSION, directory, (), LONG_S)
        await rehearsals.close()

    runner.run(scenario())


@pytest.mark.parametrize("end", ["cancelled", "killed"])
def test_no_child_is_left_behind(
    runner: asyncio.Runner, rehearsals: Rehearsals, coded: Write, tmp_path: Path, end: str
) -> None:
    """Nobody asks any more, or the server is killed, as Ray does with the children of an actor."""
    note, grandchild = tmp_path / "pid", tmp_path / "grandchild"
    spoiled = coded(
        GRANDCHILD.format(note=str(grandchild), start=BEGUN["started"])
        + GRANDCHILD.format(note=str(note), start="pid = os.getpid()")
        + "time.sleep(600)"
    )

    async def scenario() -> None:
        trusted = tuple(odd_models.TRUSTED)
        task = asyncio.create_task(rehearsals.rehearse(VERSION, spoiled, trusted, LONG_S))
        async with asyncio.timeout(LONG_S):
            while not note.exists():
                await asyncio.sleep(0.01)
        child = int(note.read_text())
        if end == "killed":
            parent = psutil.Process(child).parent()
            assert parent is not None
            parent.kill()
            await until_gone(child)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until_gone(child)
        begun = int(grandchild.read_text())
        if end == "killed":  # nobody is left who could know of it
            os.kill(begun, signal.SIGKILL)
        else:
            running.wait_for(lambda: _is_gone(begun), 10, every_s=0.02)

    async def until_gone(pid: int) -> None:
        async with asyncio.timeout(10):
            while not _is_gone(pid):
                await asyncio.sleep(0.01)

    runner.run(scenario())


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, though its new parent may not have collected it yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _fork_servers() -> set[int]:
    """The fork servers of this process that live."""
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE
        and "serve_app.models.fork_server" in child.cmdline()
    }
