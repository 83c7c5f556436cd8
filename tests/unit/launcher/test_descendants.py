"""What the launcher knows of the processes of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from unittest import mock

import psutil
import pytest

from launcher.processes import Descendants
from tests import running

PARENT = (
    "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
)
THERE_S = 20.0


@pytest.fixture
def family() -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """A process and what it has started."""
    with subprocess.Popen([sys.executable, "-c", PARENT]) as child:
        parent = psutil.Process(child.pid)
        running.wait_for(lambda: bool(parent.children()), THERE_S)
        (grandchild,) = parent.children()
        yield parent, grandchild
        for process in (grandchild, parent):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_whatever_was_started_is_known_until_it_is_gone(
    family: tuple[psutil.Process, psutil.Process],
) -> None:
    """Directly or not; neither this process nor those above it are among them."""
    parent, grandchild = family
    descendants = Descendants()
    found = descendants.look()
    assert {parent, grandchild} <= set(found)
    assert not {psutil.Process(), *psutil.Process().parents()} & set(found)
    grandchild.kill()
    parent.wait(THERE_S)
    assert not {parent, grandchild} & set(descendants.look())


def test_a_process_is_looked_at_once(family: tuple[psutil.Process, psutil.Process]) -> None:
    """Ours and all others."""
    descendants = Descendants()
    before = set(descendants.look())
    with mock.patch.object(psutil.Process, "parents", autospec=True) as parents:
        assert set(family) <= before & set(descendants.look())
    known = {call.args[0] for call in parents.call_args_list}
    assert not known & {*family, *psutil.Process().parents()}


def test_one_whose_parent_ended_during_the_look_is_looked_at_again(
    family: tuple[psutil.Process, psutil.Process],
) -> None:
    """Where it belongs can't be told then."""
    descendants = Descendants()
    with mock.patch.object(psutil.Process, "parents", return_value=[]):
        assert not set(family) & set(descendants.look())
    assert set(family) <= set(descendants.look())
