"""A Dockerfile as data, as far as this project's own goes: no heredocs, one form of each word."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word, its `--flags`, and the rest of it on one line."""

    word: str
    flags: dict[str, str]
    text: str

    @property
    def words(self) -> list[str]:
        """The text split as a shell does."""
        return shlex.split(self.text)

    @property
    def exec_form(self) -> list[str]:
        """The JSON array of CMD, after the word CMD in HEALTHCHECK."""
        command: list[str] = json.loads(self.text.removeprefix("CMD "))
        return command

    @property
    def pairs(self) -> dict[str, str]:
        """The NAME=value pairs of ENV, ARG and LABEL."""
        return dict(word.split("=", 1) for word in self.words)


@dataclass(frozen=True)
class Stage:
    """One stage: its name, the stage or image that it starts from, and what it does."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all_of(self, word: str) -> list[Instruction]:
        """The stage's own instructions of one kind."""
        return [one for one in self.instructions if one.word == word]

    def last(self, word: str) -> Instruction:
        """The one of a kind that holds."""
        return self.all_of(word)[-1]


def read(file: Path = ROOT / "Dockerfile") -> dict[str, Stage]:
    """Return the stages by name, in their order."""
    stages: dict[str, Stage] = {}
    for instruction in _instructions(file.read_text()):
        if instruction.word == "FROM":
            base, _, name = instruction.words
            stages[name] = Stage(name, base)
        else:
            next(reversed(stages.values())).instructions.append(instruction)
    return stages


def chain(stages: dict[str, Stage], name: str) -> list[Stage]:
    """Return a stage and those that it starts from, the first of them first."""
    stage = stages[name]
    return [*(chain(stages, stage.base) if stage.base in stages else []), stage]


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            flags, rest = _flags(rest.strip())
            yield Instruction(word, flags, rest)


def _flags(text: str) -> tuple[dict[str, str], str]:
    flags: dict[str, str] = {}
    while found := re.match(r"--([a-z-]+)=(\S+)\s+", text):
        flags[found[1]] = found[2]
        text = text[found.end() :]
    return flags, text
