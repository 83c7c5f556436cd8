"""What people see: a spinner on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show that a step is under way, then that it is done and how long it took."""
    started = monotonic()
    if not _out.is_terminal:
        _out.print(f"  {what} ...", markup=False)
    with _out.status(f"{what} ..."):
        yield
    _out.print(f"[green]ok[/green] {what} ({monotonic() - started:.1f} s)")


def say(text: str) -> None:
    """Print a line."""
    _out.print(text, markup=False)


def complain(text: str) -> None:
    """Print an error."""
    _err.print(f"error: {text}", markup=False, style="bold red")
