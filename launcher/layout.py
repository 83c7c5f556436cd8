"""Where a copy of the project keeps what it makes: everything under `var/`."""

import fcntl
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import SettingError


@dataclass(frozen=True)
class Layout:
    """Paths of one copy; running it writes to `var` only."""

    root: Path
    token: Path
    """The file with Ray's token."""

    @property
    def var(self) -> Path:
        """The folder for everything that running the project makes."""
        return self.root / "var"

    @property
    def logs(self) -> Path:
        """Output of the processes that the launcher starts, one file each."""
        return self.var / "logs"

    @property
    def mlflow(self) -> Path:
        """The embedded MLflow server's database and artifacts."""
        return self.var / "mlflow"

    @property
    def model_cache(self) -> Path:
        """Copies of model versions, for serving."""
        return self.var / "cache"

    @property
    def api_keys(self) -> Path:
        """The API keys that `python -m serve_app keys` writes, unless a variable names others."""
        return self.var / "api_keys"

    @property
    def state(self) -> Path:
        """What runs, for `make stop` and `make train`."""
        return self.var / "run.json"

    @property
    def serve_config(self) -> Path:
        """The copy of serve_config.yaml with this run's ports."""
        return self.var / "serve_config.yaml"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the copy for one run at a time.

        Raises SettingError if another run holds it. It goes with the process, however that ends.
        """
        with (self.var / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SettingError("already running in this folder: `make stop` ends it") from error
            yield

    def make(self) -> None:
        """Make the folders, and the token that only this user may read."""
        for folder in (self.logs, self.mlflow, self.model_cache):
            folder.mkdir(parents=True, exist_ok=True)
        self.token.parent.mkdir(parents=True, exist_ok=True)
        if not self.token.exists() or not self.token.read_text().strip():
            self.token.touch(mode=0o600)
            self.token.write_text(secrets.token_hex(32))


def here(environ: Mapping[str, str]) -> Layout:
    """Return the layout of the copy that this module belongs to.

    `RAY_AUTH_TOKEN_PATH` names the token's file; by default it is under `var/`.
    """
    root = Path(__file__).resolve().parent.parent
    return Layout(root, Path(environ.get("RAY_AUTH_TOKEN_PATH") or root / "var" / "ray_token"))
