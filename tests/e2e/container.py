"""A folder that stands for a container's file system, made as the Dockerfile says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.dockerfile import ROOT, Stage, chain, read

CHECK_S = 10.0
RUN_S = 400.0
"""For a command of the build, while others keep all processors busy."""


@dataclass
class Container:
    """What a stage of the Dockerfile makes: the files under /app, and the environment.

    The interpreter is that of the tests, which has what requirements.lock names.
    """

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def app(self) -> Path:
        """The folder that stands for /app."""
        return self.folder / "app"

    def mapped(self, text: str) -> str:
        """Replace the container's paths in `text` by those that stand for them."""
        places = {
            "/app": str(self.app),
            "/opt/venv": sys.prefix,
            "/run/endeavour": str(self.folder / "run"),
            "/tmp": str(self.folder / "tmp"),
        }
        return re.sub(r"(?<![\w.])(/app|/opt/venv|/run/endeavour|/tmp)\b", _of(places), text)

    def run(
        self, command: Sequence[str], timeout_s: float, changes: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in /app, with some variables changed, to its end."""
        return subprocess.run(
            [self.mapped(word) for word in command],
            cwd=self.app,
            env={**self.environ, **changes},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )


@dataclass(frozen=True)
class Image:
    """The stage that serves, and the one that has trained and exported its model."""

    model: Container
    serve: Container

    @property
    def command(self) -> list[str]:
        """What the image runs, unless it is told something else."""
        return read()["serve"].last("CMD").exec_form

    def files(self) -> set[str]:
        """The files below /app, but for those that running the image may make."""
        paths = (path.relative_to(self.serve.app) for path in self.serve.app.rglob("*"))
        kept = {
            str(path)
            for path in paths
            if path.parts[0] != "var" and "__pycache__" not in path.parts
        }
        return kept - {"launcher.log"}

    def health_code(self, ports: Mapping[str, str]) -> int:
        """Run the health check, which reads a moved port from PORT, and return its exit code."""
        check = read()["serve"].last("HEALTHCHECK").exec_form
        return self.serve.run(check, CHECK_S, ports).returncode


def build_image(folder: Path) -> Image:
    """Build what a plain `docker build` makes, in folders below this one."""
    stages = read()
    model = build(stages, "model", folder / "model", {})
    return Image(model, build(stages, "serve", folder / "serve", {"model": model}))


def build(
    stages: Mapping[str, Stage], name: str, folder: Path, others: Mapping[str, Container]
) -> Container:
    """Do what a stage says: copy, set, and run, in its order.

    Left out is what the machine must already have: the users, and the packages in /opt/venv.
    """
    container = Container(folder)
    container.environ = {"HOME": str(folder), "LANG": "C.UTF-8", "PATH": os.defpath}
    # Its default is beside other users' in the real /tmp.
    container.environ["MODEL_CACHE_DIR"] = str(folder / "tmp" / "models")
    for place in ("app", "run", "tmp"):
        (folder / place).mkdir(parents=True)
    for stage in chain(dict(stages), name):
        _do(stage, container, others, runs=stage.name == name)
    return container


def _do(stage: Stage, container: Container, others: Mapping[str, Container], *, runs: bool) -> None:
    for one in stage.instructions:
        if one.word in ("ENV", "ARG"):
            for key, value in one.pairs.items():
                text = re.sub(r"\$(\w+)", _of(container.environ), value)
                container.environ[key] = container.mapped(text)
        elif one.word == "COPY":
            *sources, target = one.words
            origin = others.get(one.flags.get("from", ""))
            for source in sources:
                if source != "/opt/venv":
                    whole = Path(origin.mapped(source)) if origin else ROOT / source
                    _copy(whole, container.app / target)
        elif one.word == "RUN" and runs:
            _run(container, one.text)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copy(source, target / source.name if target.is_dir() else target)


def _run(container: Container, line: str) -> None:
    # Owners can be set by root only, and inside the folder they are of no importance.
    line = re.sub(r"--(owner|group)=\d+ ", "", line)
    done = container.run(["/bin/sh", "-c", line], timeout_s=RUN_S, changes={})
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def _of(values: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda found: values.get(found[1], found[0])
