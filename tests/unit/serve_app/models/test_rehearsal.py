"""A version is tried in a process of its own, and whatever becomes of that is an answer."""

import asyncio
import os
import signal
from collections.abc import Callable
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
from serve_app.models.rehearsal import rehearse
from serve_app.models.served import ServedModel, ServedVersion, describe
from tests import models, running

LONG_S = 60.0
ROWS = np.random.default_rng(0).normal(size=(20, 2))
VERSION = ServedVersion("m", "2", None, "models:/m/2", "ab" * 32)
AtStart = Callable[[str], None]


def tried(directory: Path, version: ServedVersion = VERSION, timeout_s: float = LONG_S) -> Any:
    """What is found out of a version."""
    return asyncio.run(rehearse(version, directory, (), timeout_s))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can be served."""
    estimator = LinearRegression().fit(ROWS, ROWS @ [1.0, 2.0])
    return models.write(tmp_path_factory.mktemp("good") / "model", estimator, ROWS, ["a", "b"])


@pytest.fixture
def at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AtStart:
    """Let child processes run some code before anything else, as a model's file might."""

    def write(code: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)

    return write


@pytest.mark.parametrize("labels", [None, ["no", "yes"], [0, 1]])
def test_what_a_child_finds_out_is_what_we_would_have(
    tmp_path: Path, labels: list[Any] | None
) -> None:
    """Of numbers, and of labels of either kind, without our reading the model."""
    if labels is None:
        estimator: Any = LinearRegression().fit(ROWS, ROWS[:, 0])
    else:
        estimator = LogisticRegression().fit(ROWS, np.asarray(labels)[(ROWS[:, 0] > 0).astype(int)])
    directory = models.write(tmp_path / "model", estimator, ROWS, ["a", "b"])
    found: ServedModel = tried(directory)
    expected = describe(VERSION, model_files.read(directory))
    assert found == expected
    assert found.labels == (None if labels is None else tuple(labels))
    assert found.example.tolist() == expected.example.tolist()


def test_a_model_that_answers_otherwise_than_in_training_is_refused(directory: Path) -> None:
    """The reason comes from the child, and is one that people can read."""
    version = replace(VERSION, expected=[123.0])
    with pytest.raises(UnservableModelError, match=r"but training recorded \[123\.0\]"):
        tried(directory, version)


def test_a_file_that_cannot_be_read_is_refused(directory: Path, tmp_path: Path) -> None:
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
    at_start: AtStart, directory: Path, sign: signal.Signals
) -> None:
    """A fault in a library's own code, or the kernel that needs its memory."""
    no_core = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    at_start(f"{no_core}\nimport os; os.kill(os.getpid(), {int(sign)})")
    with pytest.raises(UnservableModelError, match=f"ended its process by {sign.name}"):
        tried(directory)


def test_a_child_that_ends_by_itself_is_quoted(at_start: AtStart, directory: Path) -> None:
    """The end of what it said, not all of it."""
    at_start("import os, sys; sys.stderr.write('x' * 9999 + 'no licence'); os._exit(7)")
    with pytest.raises(UnservableModelError, match=r"with code 7: x+no licence$") as raised:
        tried(directory)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os._exit(0)", "before it said what it is like"),
        ("import os; print('{}', flush=True); os._exit(0)", "before it said what it is like"),
        ("import os; os._exit(2)", "with code 2"),
        ("import os; os.kill(os.getpid(), 40)", "by signal 40"),
    ],
)
def test_a_child_that_says_nothing_of_use_is_a_reason(
    at_start: AtStart, directory: Path, code: str, why: str
) -> None:
    """Or the version would be tried again for ever."""
    at_start(code)
    with pytest.raises(UnservableModelError, match=why):
        tried(directory)


def test_a_grandchild_goes_with_the_child(
    at_start: AtStart, directory: Path, tmp_path: Path
) -> None:
    """A model may start processes of its own."""
    note = tmp_path / "pid"
    at_start(
        "import os, pathlib, subprocess, time\n"
        f"child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    with pytest.raises(UnservableModelError, match="within"):
        tried(directory, timeout_s=3.0)
    running.wait_for(lambda: not psutil.pid_exists(int(note.read_text())), 10)


def test_a_child_that_does_not_return_is_given_up(at_start: AtStart, directory: Path) -> None:
    """Others wait for their turn."""
    at_start("import time; time.sleep(600)")
    with pytest.raises(UnservableModelError, match=r"not loaded and tried within 0\.1 s"):
        tried(directory, timeout_s=0.1)


def test_what_a_child_says_beside_its_answer_does_no_harm(
    at_start: AtStart, directory: Path
) -> None:
    """Libraries greet on standard output."""
    at_start("print('welcome')")
    assert tried(directory) == describe(VERSION, model_files.read(directory))


def test_no_child_is_left_behind(at_start: AtStart, directory: Path, tmp_path: Path) -> None:
    """Nobody wants to know any more: it would go on for ever."""
    note = tmp_path / "pid"
    at_start(
        "import os, pathlib, time\n"
        f"note = pathlib.Path({str(note)!r})\n"
        "note.with_suffix('.new').write_text(str(os.getpid()))\n"
        "note.with_suffix('.new').rename(note)\n"
        "time.sleep(600)"
    )

    async def scenario() -> None:
        task = asyncio.create_task(rehearse(VERSION, directory, (), LONG_S))
        async with asyncio.timeout(LONG_S):
            while not note.exists():
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
