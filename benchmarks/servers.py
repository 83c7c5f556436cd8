"""What is measured: the peers, a folder each under `peers/`, and this service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks import asks
from benchmarks.asks import Ask, Floats
from benchmarks.model import Model
from contract import strict

OURS: Final = "endeavour"
STARLETTE: Final = "starlette"
TITLE: Final = "Endeavour"
PEERS: Final = Path(__file__).parent / "peers"

Protocol = Literal["original", "mlflow", "v2"]


class Definition(strict.Strict):
    """What `peer.yaml` says. Commands and environment may hold {bin}, {host}, {ports[0]},
    {model} and {scratch}."""

    title: str
    package: str
    """The package whose version is reported."""
    protocol: Protocol
    stream: str
    """Path that takes one record."""
    batch: str
    """Path that takes many."""
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}


@dataclass(frozen=True)
class Server:
    """A server that can be asked, by the name of its folder."""

    name: str
    title: str
    protocol: Protocol
    stream_path: str
    batch_path: str

    def stream(self, model: Model) -> Ask:
        """Return the request with one record."""
        row = model.rows(1)
        if self.protocol == "original":
            return asks.original_one(self.stream_path, row[0], model.expected(row))
        return self._many(self.stream_path, model, row)

    def batch(self, model: Model, rows: int) -> Ask:
        """Return the request with many records."""
        return self._many(self.batch_path, model, model.rows(rows))

    def _many(self, path: str, model: Model, rows: Floats) -> Ask:
        expected = model.expected(rows)
        match self.protocol:
            case "original":
                return asks.original_many(path, rows, expected)
            case "mlflow":
                return asks.mlflow_split(path, rows, model.columns, expected)
            case "v2":
                return asks.v2_json(path, {"X": rows}, expected)


@dataclass(frozen=True)
class Peer:
    """A peer: its folder, and what its `peer.yaml` says."""

    folder: Path
    definition: Definition

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def requirements(self) -> Path:
        """Everything in its environment, with exact versions."""
        return self.folder / "requirements.txt"

    @property
    def server(self) -> Server:
        """How it is asked."""
        said = self.definition
        return Server(self.name, said.title, said.protocol, said.stream, said.batch)


def service() -> Server:
    """Return how this service is asked."""
    return Server(OURS, TITLE, "original", "/stream", "/batch")


def peers(folder: Path = PEERS) -> dict[str, Peer]:
    """Return all peers by name. Raises SettingsError for a `peer.yaml` that can't be used."""
    found = {}
    for file in sorted(folder.glob("*/peer.yaml")):
        definition = strict.parse(Definition, strict.read_yaml(file), str(file))
        found[file.parent.name] = Peer(file.parent, definition)
    return found


def order(names: Sequence[str], round_number: int) -> list[str]:
    """Return the order of one round: each starts with another server.

    This service always comes right before bare Starlette, which is sent the same rates.
    """
    units = [[name] for name in names if name not in (OURS, STARLETTE)]
    both = [name for name in (OURS, STARLETTE) if name in names]
    units = [both, *units] if both else units
    first = (round_number - 1) % len(units) if units else 0
    return [name for unit in [*units[first:], *units[:first]] for name in unit]
