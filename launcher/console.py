"""What people see: a spinner on a terminal, plain lines elsewhere.

Output never decides what happens: if the terminal is gone, everything goes on in silence.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from time import monotonic
from typing import Any

from rich.console import Console


class _Patient(Console):
    """A console whose reader may go away."""

    def on_broken_pipe(self) -> None:
        """Fall silent, where rich would end the process."""
        self.quiet = True

    def write(self, *parts: Any, **options: Any) -> None:
        """Print, or fall silent."""
        try:
            self.print(*parts, **options)
        except OSError:
            self.quiet = True


_out = _Patient(highlight=False, soft_wrap=True)
_err = _Patient(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show that a step is under way, then that it is done and how long it took."""
    started = monotonic()
    shows_spinner = _out.is_terminal and not _out.quiet
    if not shows_spinner:
        _out.write(f"   {what} ...", markup=False)
    with _out.status(f"{what} ...") if shows_spinner else nullcontext():
        yield
    _out.write(f"[green]ok[/green] {what} ({monotonic() - started:.1f} s)")


def say(text: str) -> None:
    """Print a line."""
    _out.write(text, markup=False)


def complain(text: str) -> None:
    """Print an error."""
    _err.write(f"error: {text}", markup=False, style="bold red")
