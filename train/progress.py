"""What the job says while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


@dataclass
class Step:
    """One step under way; `note` is what its line says when it ends."""

    note: str = ""
    bar: Bar | None = field(default=None, repr=False)
    task: TaskID | None = None

    def advance(self, done: int, total: int) -> None:
        """Move the bar, if there is one."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, total=total)


class Progress:
    """Counts the job's steps and prints one line for each that ends well."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout)
        self._total = total
        self._number = 0

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time the block and show it as the next step."""
        self._number += 1
        label = f"[{self._number}/{self._total}] {name}"
        started = time.monotonic()
        if self._console.is_terminal:
            with self._bar() as bar:
                step = Step(bar=bar, task=bar.add_task(label, total=None))
                yield step
        else:
            step = Step()
            yield step
        took_s = time.monotonic() - started
        note = f"{step.note}, " if step.note else ""
        self.say(f"{label}: {note}{took_s:.1f} s")

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def _bar(self) -> Bar:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        return Bar(*columns, console=self._console, transient=True)
